"""Parts of a drawing: selected, moved, locked, painted behind, smoothed. The painter on a page of its own."""
import pytest
import torch

from mditface.mdit.labelmap import encode_drawing, find_class
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e.painter_page import Painter, Pointers, alone

BACKGROUND, HAT, HAIR, SKIN, NOSE, NECK, GLASSES, LEFT_EYE, RIGHT_EYE = map(
    find_class, ("background", "hat", "hair", "skin", "nose", "neck", "eye_g", "l_eye", "r_eye"))


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


def tilt(drawing: torch.Tensor) -> torch.Tensor:
    """The drawing at two thirds of its size, turned by 20 degrees clockwise."""
    size = drawing.shape[0]
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    turn = torch.tensor(20.0).deg2rad()
    column = (x * turn.cos() + y * turn.sin()) * 1.5 + size / 2
    row = (y * turn.cos() - x * turn.sin()) * 1.5 + size / 2
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    return torch.where(inside, drawing[row.long().clamp(0, size - 1), column.long().clamp(0, size - 1)], 0).byte()


def lay(painter, group: str, name: str) -> None:
    """A part of the gallery, by mouse."""
    painter.command("parts")
    painter.root.locator(f"label:has(input[name='part'][value='{group}'])").click()
    painter.root.locator(f"[data-part='{group}/{name}']").click()


def axis_of(drawing, *values: int) -> float:
    """Degrees, clockwise, by which the middles of two classes are turned from level."""
    (y, x), (v, u) = (torch.nonzero(drawing == value).float().mean(0) for value in values)
    return torch.atan2(v - y, u - x).rad2deg().item()


def test_a_part_takes_size_and_tilt_of_the_face_and_floats(page, painter):
    page.evaluate("text => window.load(text)", encode_drawing(tilt(painter.drawing())))
    before = painter.drawing()
    lay(painter, "glasses", "thick")
    worn = painter.drawing()
    frame = torch.nonzero(worn == GLASSES).float()
    u, s, axes = torch.pca_lowrank(frame)
    turn = torch.atan2(axes[0, 0], axes[1, 0]).rad2deg().item() % 180
    assert turn == pytest.approx(axis_of(before, RIGHT_EYE, LEFT_EYE), abs=3)
    eyes = torch.nonzero((before == LEFT_EYE) | (before == RIGHT_EYE)).float()
    assert (frame.mean(0) - eyes.mean(0)).abs().max() < 6
    assert frame[:, 1].std() == pytest.approx(eyes[:, 1].std().item(), rel=0.4)
    assert selected(page) == [GLASSES]
    painter.press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft")
    assert torch.equal(painter.drawing(), worn)  # it floats
    painter.press(*["Control+z"] * 5)
    assert torch.equal(painter.drawing(), before)  # one step
    painter.press("Control+y")
    assert torch.equal(painter.drawing(), worn)


def test_parts_by_keyboard_in_chinese_on_an_empty_drawing(page, painter):
    page.evaluate("""async () => {
        const { PainterPanel } = await import("/painter/panel.js");
        const { wordsFor } = await import("/painter/words.js");
        window.panel.close();
        window.panel.host.remove();
        const host = document.body.appendChild(document.createElement("div"));
        window.panel = new PainterPanel(host, wordsFor("zh"), window.services);
        window.panel.canvas.focus();
    }""")
    painter.press("d", "ArrowRight")
    page.get_by_role("button", name="\u957f\u9f3b").wait_for()
    painter.press("Tab", "Tab", "Enter")
    drawing = painter.drawing()
    assert set(drawing.unique().tolist()) == {BACKGROUND, NOSE}
    assert middle(drawing, NOSE)[0] == pytest.approx(256, abs=3)
    assert page.evaluate("() => window.panel.root.activeElement === window.panel.canvas")


def test_a_nose_by_touch_and_what_locks_say(page, painter):
    before = painter.drawing()
    painter.command("parts")
    touch = Pointers(page)
    for target in ("label:has(input[value='noses'])", "[data-part='noses/large']"):
        box = painter.root.locator(target).bounding_box()
        point = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        touch.touch("Start", point)
        touch.touch("End")
        page.wait_for_timeout(100)
    after = painter.drawing()
    assert (after == NOSE).sum() > 1.1 * (before == NOSE).sum()
    assert middle(after, NOSE) == pytest.approx(middle(before, NOSE), abs=8)
    painter.root.get_by_role("button", name="Lock nose").click()
    lay(painter, "noses", "narrow")
    assert torch.equal(painter.drawing(), after)
    assert "locked" in painter.root.locator(".message").inner_text()
    lay(painter, "beards", "full")
    assert "beard" in painter.root.locator(".message").inner_text()
    grown = painter.drawing()
    assert ((grown == SKIN) & (before == NECK)).sum() > 1000 and (after[grown != after] != NOSE).all()


def test_other_hair_uncovers_a_head(page, painter):
    """What long hair hid beside the neck becomes background, not neck; and no hair sticks out above a hat."""
    before = painter.drawing()
    lay(painter, "hair", "short")
    after = painter.drawing()
    assert (after == HAIR).sum() < 0.7 * (before == HAIR).sum()
    assert (after == NECK).sum() < 1.3 * (before == NECK).sum()
    lay(painter, "hair", "afro")
    lay(painter, "hats", "cap")
    worn = painter.drawing()
    top = torch.nonzero(worn == HAT)[:, 0].min()
    assert not (worn[:top] == HAIR).any() and (worn == HAIR).sum() > 1000


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


def test_damaged_locks_and_choices_of_a_graph_are_left_out(page, painter):
    page.evaluate("""skin => {
        const { settings } = window.services;
        settings.set("locked", ["length", null, 19, -1, skin]);
        settings.set("cover", "toString");
        window.panel.editor.changed("state");
    }""", SKIN)
    assert painter.root.locator(".lock[aria-pressed='true']").count() == 1
    assert painter.root.get_by_role("button", name="Lock skin").get_attribute("aria-pressed") == "true"
    painter.canvas.focus()
    painter.press("c")
    assert page.evaluate("() => window.services.settings.get('cover')") == "selection"


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
