"""Parts of a drawing: selected, moved, locked, painted behind, smoothed. The painter on a page of its own."""
import pytest
import torch

from mditface.mdit.labelmap import find_class
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e.painter_page import Painter, alone

BACKGROUND, HAT, HAIR, SKIN, NOSE, GLASSES, LEFT_EYE, RIGHT_EYE = map(
    find_class, ("background", "hat", "hair", "skin", "nose", "eye_g", "l_eye", "r_eye"))


@pytest.fixture
def page(browser):
    with alone(browser) as loaded:
        yield loaded
        assert loaded.our_errors == []


@pytest.fixture
def painter(page):
    page.evaluate("text => window.load(text)", first_drawing())
    return Painter(page, lambda: page.evaluate("window.text()"))


def middle(drawing, value: int) -> tuple[float, float]:
    """A pixel of a class near its middle: x, y."""
    found = torch.nonzero(drawing == value).float()
    nearest = ((found - found.mean(0)) ** 2).sum(1).argmin()
    y, x = found[nearest].tolist()
    return x + 0.5, y + 0.5


def drag(painter, start, by) -> None:
    painter.stroke(start, (start[0] + by[0], start[1] + by[1]))


def selected(page) -> list[int]:
    return page.evaluate("() => window.panel.editor.selected")


def test_a_click_selects_and_shift_adds(page, painter):
    drawing = painter.drawing()
    painter.choose("move")
    painter.click(*middle(drawing, NOSE))
    assert selected(page) == [NOSE]
    page.keyboard.down("Shift")
    painter.click(*middle(drawing, LEFT_EYE))
    painter.click(*middle(drawing, RIGHT_EYE))
    painter.click(*middle(drawing, RIGHT_EYE))
    page.keyboard.up("Shift")
    assert selected(page) == [NOSE, LEFT_EYE]
    assert torch.equal(painter.drawing(), drawing)
    before = {value: torch.nonzero(drawing == value) for value in (NOSE, LEFT_EYE)}
    drag(painter, middle(drawing, NOSE), (20, -10))
    moved = painter.drawing()
    for value, pixels in before.items():
        now = torch.nonzero(moved == value)
        assert len(now) == len(pixels) and (now - pixels).float().mean(0).tolist() == pytest.approx([-10, 20], abs=1)
    painter.press("Delete")
    assert not set(painter.drawing().unique().tolist()) & {NOSE, LEFT_EYE}
    painter.press("Control+z", "Control+z")
    assert torch.equal(painter.drawing(), drawing)


def test_there_and_back_leaves_everything_as_it_was(page, painter):
    """In several drags, with undo between them, over parts that the nose covers on its way."""
    drawing = painter.drawing()
    painter.choose("move")
    painter.click(*middle(drawing, NOSE))
    x, y = middle(drawing, NOSE)
    for by in ((60, -60), (-120, 10), (0, 40), (-40, 0)):
        drag(painter, (x, y), by)
        x, y = x + by[0], y + by[1]
    painter.press("Control+z")
    x += 40
    assert not torch.equal(painter.drawing(), drawing)
    drag(painter, (x, y), (60, 10))
    assert torch.equal(painter.drawing(), drawing)
    drag(painter, middle(drawing, NOSE), (50, 0))
    painter.choose("brush")
    painter.choose("move")  # what floats lies down with another tool
    there = painter.drawing()
    drag(painter, middle(there, NOSE), (-50, 0))
    assert not torch.equal(painter.drawing(), drawing)


def test_what_a_moved_part_uncovers_is_skin(page, painter):
    """Glasses touch the nose; they do not spread into what it leaves."""
    painter.choose("eye_g")
    x, y = middle(painter.drawing(), NOSE)
    nose = torch.nonzero(painter.drawing() == NOSE)
    top = nose[:, 0].min().item()
    painter.stroke((x - 60, top + 5), (x + 60, top + 5))
    before = painter.drawing()
    left = before == NOSE
    painter.choose("move")
    drag(painter, middle(before, NOSE), (110, 0))
    after = painter.drawing()
    gap = left & (after != NOSE)
    assert gap.sum() > 500 and (after[gap] == SKIN).all()


def test_locked_parts_stay(page, painter):
    drawing = painter.drawing()
    painter.root.get_by_role("button", name="Lock skin").click()
    painter.root.get_by_role("button", name="Lock left eye").click()
    locked = (drawing == SKIN) | (drawing == LEFT_EYE)
    painter.choose("hat")
    painter.stroke((60, 200), (450, 200))
    painter.choose("eraser")
    painter.stroke((60, 300), (450, 300))
    painter.choose("fill")
    painter.click(*middle(drawing, SKIN))
    painter.choose("move")
    painter.click(*middle(drawing, LEFT_EYE))
    drag(painter, middle(drawing, LEFT_EYE), (30, 30))
    painter.command("clear")
    after = painter.drawing()
    assert torch.equal(after[locked], drawing[locked]) and (after[~locked] == BACKGROUND).all()
    assert painter.root.get_by_role("button", name="Lock skin").get_attribute("aria-pressed") == "true"
    painter.root.get_by_role("button", name="Lock skin").click()
    painter.root.get_by_role("button", name="Lock left eye").click()
    painter.command("clear")
    assert (painter.drawing() == BACKGROUND).all()


def test_strokes_behind_the_parts_and_over_selected_ones(page, painter):
    drawing = painter.drawing()
    painter.choose("hat")
    cover = painter.root.locator("select")
    cover.select_option("Behind the parts")
    painter.stroke((5, 250), (505, 250))
    behind = painter.drawing()
    changed = behind != drawing
    assert changed.sum() > 500 and (drawing[changed] == BACKGROUND).all()
    painter.press("Control+z")
    cover.select_option("Over selected parts")
    painter.root.locator("label:has(input[value='13'])").click(modifiers=["Shift"])
    assert selected(page) == [HAT, HAIR]
    painter.stroke((5, 250), (505, 250))
    changed = painter.drawing() != drawing
    assert changed.sum() > 500 and (drawing[changed] == HAIR).all() and (painter.drawing()[changed] == HAT).all()


def test_lasso_straight_line_and_healing_eraser(page, painter):
    painter.command("clear")
    painter.choose("hat")
    painter.choose("lasso")
    painter.stroke((100, 100), (300, 100), (300, 200), (100, 200))
    drawing = painter.drawing()
    assert (drawing[105:195, 105:295] == HAT).all()
    assert (drawing == HAT).sum().item() == pytest.approx(20_000, rel=0.02)
    painter.choose("healer")
    painter.stroke((100, 100), (300, 200))
    assert torch.equal(painter.drawing()[160:190, 110:140], drawing[160:190, 110:140])
    painter.press("Control+z")
    painter.stroke((150, 150), (250, 150))
    assert torch.equal(painter.drawing(), drawing)  # a hat alone lies around
    painter.choose("skin")
    painter.choose("brush")
    painter.click(50, 400)
    page.keyboard.down("Shift")
    painter.click(450, 450)
    page.keyboard.up("Shift")
    assert (painter.drawing()[420:430, 245:255] == SKIN).all()


def count_edges(inside: torch.Tensor) -> int:
    """Neighbours of which one is inside (H, W) and the other is not."""
    return int((inside[1:] ^ inside[:-1]).sum() + (inside[:, 1:] ^ inside[:, :-1]).sum())


def test_smooth_edges_and_the_copied_half(page, painter):
    painter.command("clear")
    painter.choose("hat")
    painter.choose("polygon")
    for point in ((100, 100), (300, 100), (300, 300), (200, 110), (100, 300)):
        painter.click(*point)
    painter.press("Enter")
    sharp = painter.drawing() == HAT
    painter.command("smooth")
    smooth = painter.drawing() == HAT
    assert 0 < (sharp ^ smooth).sum() < 0.05 * sharp.sum()
    assert smooth.sum().item() == pytest.approx(sharp.sum().item(), rel=0.03)
    assert count_edges(smooth) < count_edges(sharp)
    painter.command("clear")
    painter.choose("l_eye")
    painter.choose("brush")
    painter.stroke((350, 200), (380, 220))
    painter.command("copyLeft")
    drawing = painter.drawing()
    assert torch.equal(drawing == RIGHT_EYE, (drawing == LEFT_EYE).flip(1)) and (drawing == LEFT_EYE).sum() > 500
    painter.press("Control+z")
    assert RIGHT_EYE not in painter.drawing()
    painter.command("copyRight")
    assert (painter.drawing() == BACKGROUND).all()


def test_brushes_and_colors_are_kept_with_the_node(page, painter):
    painter.choose("hat")
    painter.press("]", "]")
    radius = page.evaluate("() => window.panel.editor.radius")
    painter.root.locator("button[data-command='more']").click()
    page.get_by_role("button", name="Keep this brush").click()
    painter.press("Escape")
    assert page.evaluate("() => window.services.settings.get('brushes')") == [{"radius": radius, "value": HAT}]
    painter.choose("eraser")
    painter.choose("skin")
    painter.press("[", "[", "[")
    painter.root.locator("button[data-command='more']").click()
    page.get_by_role("button", name=f"hat, {2 * radius:g} px", exact=True).click()
    assert page.evaluate("() => { const { tool, value, radius } = window.panel.editor; return [tool, value, radius]; }"
                         ) == ["brush", HAT, radius]
    page.evaluate("""() => {
        window.services.settings.set("brushes", [{ radius: 3, value: "length" }, null, { radius: "x", value: 1 }]);
        window.panel.editor.changed("state");
    }""")  # what a damaged graph may hold
    assert painter.root.locator(".brushes button").count() == 0
    before = painter.text()
    swatch = painter.root.locator(".swatch").nth(SKIN)
    own = swatch.evaluate("element => element.style.background")
    painter.command("natural")
    assert swatch.evaluate("element => element.style.background") != own
    assert painter.text() == before and page.evaluate("() => window.services.settings.get('naturalColors')")
