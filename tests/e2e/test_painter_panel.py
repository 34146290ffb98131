"""The painter on a page of its own: every tool, by mouse, keyboard and fingers. No host runs."""
import time
from functools import partial

import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import PALETTE, find_class
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e.painter_page import KEY_DOWN, TAB_SWITCH, WINDOW_BLUR, Painter, Pointers, alone

HAT, HAIR, SKIN, NOSE = map(find_class, ("hat", "hair", "skin", "nose"))
FRAMES = """() => {
    let frames = 0, counting = true;
    const count = () => { frames++; if (counting) requestAnimationFrame(count); };
    requestAnimationFrame(count);
    window.stopFrames = () => { counting = false; return frames; };
}"""


@pytest.fixture
def page(browser):
    with alone(browser) as loaded:
        yield loaded
        assert loaded.our_errors == []


@pytest.fixture
def painter(page):
    page.evaluate("text => window.load(text)", first_drawing())
    return Painter(page, lambda: page.evaluate("window.text()"))


def test_every_tool(page, painter):
    painter.choose("hat")
    painter.choose("fill")
    painter.click(256, 200)
    face = painter.drawing()
    assert face[200, 256] == HAT and (face == SKIN).sum() < 500

    painter.choose("polygon")
    painter.choose("hair")
    for point in ((20, 20), (120, 20), (120, 120)):
        painter.click(*point)
    painter.press("Enter")
    drawing = painter.drawing()
    assert drawing[30, 110] == HAIR and drawing[110, 30] != HAIR

    painter.choose("eraser")
    painter.stroke((20, 60), (200, 60))
    assert (painter.drawing()[60, 20:200] == 0).all()

    painter.choose("nose")
    painter.choose("move")
    old = torch.nonzero(painter.drawing() == NOSE)
    centre = old.float().mean(0)
    painter.stroke((centre[1].item(), centre[0].item()), (centre[1].item() + 60, centre[0].item() - 40))
    new = torch.nonzero(painter.drawing() == NOSE)
    assert len(new) == len(old) and ((new - old).float().mean(0) - torch.tensor([-40, 60])).abs().max() < 2

    low, high = new.min(0).values, new.max(0).values + 1
    painter.stroke((high[1].item(), high[0].item()), (high[1].item() + 40, high[0].item() + 30))
    scaled = torch.nonzero(painter.drawing() == NOSE)
    assert (scaled.min(0).values - low).abs().max() <= 1
    assert (scaled.max(0).values + 1 - high - torch.tensor([30, 40])).abs().max() <= 2

    painter.press("Delete")
    assert NOSE not in painter.drawing()


def test_the_mirror_swaps_left_and_right(page, painter):
    painter.command("clear")
    painter.command("mirror")
    painter.choose("l_eye")
    painter.stroke((350, 200), (380, 220))
    drawing = painter.drawing()
    left, right = drawing == find_class("l_eye"), drawing == find_class("r_eye")
    assert left.sum() > 500 and torch.equal(right, left.flip(1))
    painter.choose("move")
    painter.stroke((365, 210), (385, 260))
    drawing = painter.drawing()
    assert torch.equal(drawing == find_class("r_eye"), (drawing == find_class("l_eye")).flip(1))
    assert torch.equal((drawing == find_class("l_eye"))[50:, 20:], left[:-50, :-20])


def test_all_by_keyboard(page, painter):
    """From the focus on the canvas to a painted, undone, moved and cleared map without a pointer."""
    painter.canvas.focus()
    painter.press("Shift+Delete")
    assert (painter.drawing() == 0).all()
    painter.press("Shift+Digit4", "b", " ")
    painter.press(*["Shift+ArrowRight"] * 5, " ")
    drawing = painter.drawing()
    assert (drawing[256, 256:306] == HAT).all()
    painter.press("2", "f", *["Shift+ArrowDown"] * 10, " ")
    assert painter.drawing()[0, 0] == NOSE
    painter.press("p", " ", *["Shift+ArrowRight"] * 6, " ", *["Shift+ArrowUp"] * 6, " ", "1", "Enter")
    assert painter.drawing()[345, 355] == SKIN
    painter.press("v", "Shift+Digit4", "Shift+ArrowLeft", "ArrowUp")
    moved = torch.nonzero(painter.drawing() == HAT).min(0).values
    assert torch.equal(moved, torch.nonzero(drawing == HAT).min(0).values - torch.tensor([1, 10]))
    painter.press("Alt+ArrowRight")
    assert torch.nonzero(painter.drawing() == HAT).min(0).values[1] == moved[1] - 1
    painter.press("g")
    assert page.locator("dialog[open] .painter").count() == 1
    painter.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    painter.press("?")
    assert page.locator(".popup.help").is_visible()
    painter.press("Escape", "t")
    assert page.locator(".popup.faces").is_visible()
    painter.press("Tab", "Enter")
    painter.await_drawing(lambda drawing: len(drawing.unique()) > 8)


def test_keys_of_other_layouts(page, painter):
    """Undo and eraser on a Cyrillic layout, and a bracket as Macs type it."""
    before = painter.drawing()
    painter.choose("hat")
    painter.stroke((100, 60), (400, 60))
    page.evaluate(KEY_DOWN, {"key": "\u044f", "code": "KeyZ", "ctrlKey": True})
    assert torch.equal(painter.drawing(), before)
    radius = page.evaluate("() => window.panel.editor.radius")
    page.evaluate(KEY_DOWN, {"key": "[", "code": "Digit5", "altKey": True})
    assert page.evaluate("() => window.panel.editor.radius") < radius
    page.evaluate(KEY_DOWN, {"key": "\u0443", "code": "KeyE"})
    painter.stroke((200, 256), (300, 256))
    assert (painter.drawing()[256, 205:295] == 0).all()


def test_faces_size_clear_and_files(page, painter, tmp_path):
    painter.command("faces")
    page.locator("[data-template='hat']").click()
    painter.await_drawing(lambda drawing: HAT in drawing)

    painter.command("size")
    page.get_by_label("Width").fill("256")
    page.get_by_label("Height").fill("320")
    page.get_by_role("button", name="Apply").click()
    assert painter.drawing().shape == (320, 256)

    with page.expect_download() as download:
        painter.command("export")
    download.value.save_as(tmp_path / "saved.png")
    saved = Image.open(tmp_path / "saved.png").convert("RGB")
    exported = painter.drawing()
    assert saved.size == (256, 320) and saved.getpixel((128, 160)) == PALETTE[exported[160, 128]]

    painter.command("clear")
    assert (painter.drawing() == 0).all()
    painter.root.locator("input[type=file]").set_input_files(tmp_path / "saved.png")
    painter.await_drawing(partial(torch.equal, exported))

    for name, box in (("00007_skin.png", (10, 10, 80, 80)), ("00007_hair.png", (10, 10, 80, 30))):
        part = Image.new("RGB", (100, 100))
        part.paste((255, 255, 255), box)
        part.save(tmp_path / name)
    painter.root.locator("input[type=file]").set_input_files([tmp_path / "00007_skin.png", tmp_path / "00007_hair.png"])
    painter.await_drawing(lambda drawing: drawing.shape == (100, 100))
    assert painter.drawing()[20, 20] == HAIR and painter.drawing()[50, 50] == SKIN

    Image.new("RGB", (20, 20), (120, 200, 90)).save(tmp_path / "photo.png")
    painter.root.locator("input[type=file]").set_input_files(tmp_path / "photo.png")
    refusal = "photo.png was not imported: the image fits no known palette"
    painter.root.get_by_role("alert").get_by_text(refusal).wait_for()


def test_wheel_zoom_and_pan(page, painter):
    from playwright.sync_api import expect
    painter.canvas.focus()
    page.mouse.move(*painter.at(256, 256))
    size, zoom = painter.root.locator(".bar output"), painter.root.locator(".status .number")
    before = (size.text_content(), zoom.text_content())
    page.keyboard.down("Shift")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    expect(size).not_to_have_text(before[0])
    expect(zoom).to_have_text(before[1])
    page.mouse.wheel(0, -300)
    expect(zoom).not_to_have_text(before[1])
    centre = painter.at(256, 256)
    text = painter.text()
    page.mouse.move(*centre)
    page.mouse.down(button="middle")
    page.mouse.move(centre[0] + 50, centre[1], steps=3)
    page.mouse.up(button="middle")
    assert painter.text() == text
    assert page.evaluate("() => window.forwarded") == 0
    painter.press("Escape")
    page.mouse.wheel(0, 100)
    page.wait_for_function("() => window.forwarded === 1")


VIEW = "() => { const { left, top, scale } = window.panel.editor.view; return [left, top, scale]; }"


def test_the_wheel_pans_where_the_hosts_wheel_does(page, painter):
    painter.canvas.focus()
    page.mouse.move(*painter.at(256, 256))
    page.evaluate("() => { window.pans = true; }")
    left, top, scale = page.evaluate(VIEW)
    page.mouse.wheel(30, 50)
    page.wait_for_timeout(200)
    assert page.evaluate(VIEW) == [left - 30, top - 50, scale]
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_function("scale => window.panel.editor.view.scale > scale", arg=scale)


def test_space_and_a_drag_move_the_view(page, painter):
    before = painter.text()
    painter.canvas.focus()
    x, y = painter.at(256, 256)
    page.mouse.move(x, y)
    left, top, scale = page.evaluate(VIEW)
    page.keyboard.down("Space")
    painter.stroke((256, 256), (276, 256))
    page.keyboard.up("Space")
    moved = page.evaluate(VIEW)
    assert moved[0] > left + 10 and moved[1:] == [top, scale]
    assert painter.text() == before
    painter.stroke((256, 256), (300, 300))
    assert painter.text() != before


def test_a_finger_beside_a_pen_is_a_palm(page, painter):
    """Also between two strokes of the pen. Two fingers still move the view."""
    pointers = Pointers(page)
    painter.choose("hat")
    path = [painter.at(*point) for point in LINE]
    pointers.drag("pen", path)
    drawn = painter.drawing()
    assert HAT in drawn
    pointers.drag("finger", [(x, y + 100) for x, y in path])
    assert torch.equal(painter.drawing(), drawn)
    before = page.evaluate(VIEW)
    pointers.touch("Start", path[0])
    pointers.touch("Start", path[0], path[3])
    pointers.touch("Move", path[0], (path[3][0] + 80, path[3][1]))
    pointers.touch("End")
    assert page.evaluate(VIEW) != before and torch.equal(painter.drawing(), drawn)


def test_fingers(page, painter):
    """One finger paints; a second one turns the stroke into a zoom."""
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [
            {"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]})
    before = painter.drawing()
    painter.choose("hat")
    a, b = painter.at(100, 100), painter.at(300, 100)
    touch("touchStart", a)
    touch("touchMove", b)
    touch("touchEnd")
    drawing = painter.drawing()
    assert (drawing[100, 100:300] == HAT).all() and not torch.equal(drawing, before)
    zoom = painter.root.locator(".status .number")
    shown = zoom.text_content()
    touch("touchStart", a)
    touch("touchStart", a, b)
    touch("touchMove", a, (b[0] + 80, b[1]))
    touch("touchEnd")
    assert torch.equal(painter.drawing(), drawing)
    page.mouse.move(*painter.at(200, 300))
    assert int(zoom.text_content().split()[0]) > int(shown.split()[0])


def test_a_pens_pressure_thins_the_stroke(page, painter):
    session = page.context.new_cdp_session(page)

    def stroke(y, force):
        for kind, x in (("mousePressed", 100), ("mouseMoved", 200), ("mouseMoved", 400), ("mouseReleased", 400)):
            across, down = painter.at(x, y)
            session.send("Input.dispatchMouseEvent", {
                "type": kind, "x": across, "y": down, "button": "left", "buttons": int(kind != "mouseReleased"),
                "clickCount": 1, "pointerType": "pen", "force": force})
    painter.command("clear")
    painter.choose("hat")
    stroke(100, 1.0)
    stroke(300, 0.1)
    drawing = painter.drawing() == HAT
    thick, thin = drawing[:200, 250].sum(), drawing[200:, 250].sum()
    assert thick == 28 and 6 <= thin <= 12


def test_names_for_screen_readers(page, painter):
    nameless = page.evaluate("""() => [...document.querySelectorAll("*")].map(host => host.shadowRoot).filter(Boolean)
        .flatMap(root => [...root.querySelectorAll("button, input:not([hidden]), [role]")])
        .filter(element => !element.ariaLabel && !element.textContent.trim() && !element.labels?.length
            && element.getAttribute("role") !== "alert")
        .map(element => element.outerHTML)""")
    assert nameless == []
    assert painter.canvas.get_attribute("aria-label") == "Drawing, 512 by 512 pixels"
    assert page.get_by_role("radio", name="hair", exact=True).is_checked()


def test_strokes_are_smooth(page, painter, record_property):
    """A fat, mirrored brush over 512 x 512 pixels. A frame may take 33 ms; what it takes of the main thread does not
    depend on what else the machine does."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy():
        return {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]
                }["TaskDuration"]
    painter.command("mirror")
    painter.press(*["]"] * 12)
    start, end = painter.at(60, 60), painter.at(450, 450)
    page.mouse.move(*start)
    page.mouse.down()
    page.evaluate(FRAMES)
    began, worked = time.monotonic(), busy()
    for k in range(20):
        page.mouse.move(*(end if k % 2 == 0 else start), steps=4)
    frames = page.evaluate("() => window.stopFrames()")
    worked, seconds = busy() - worked, time.monotonic() - began
    page.mouse.up()
    record_property("frames a second", round(frames / seconds, 1))
    record_property("ms of the main thread a frame", round(1000 * worked / frames, 2))
    assert worked / frames < 1 / 60


INTERRUPTIONS = {
    "nothing": lambda pointers, point: None,
    "other mouse buttons": lambda pointers, point: pointers.press_others(point),
    "wheel": lambda pointers, point: pointers.turn_wheel(point),
    "keys": lambda pointers, point: [pointers.page.keyboard.press(key) for key in (
        "Control+z", "e", "f", "v", " ", "Enter", "7", "]", "Shift+Delete", "Delete", "m", "g")],
    "context menu": lambda pointers, point: pointers.page.evaluate("""() => {
        const event = new MouseEvent("contextmenu", { bubbles: true, cancelable: true, composed: true, button: 2 });
        if (window.panel.canvas.dispatchEvent(event)) throw new Error("the menu opens");
    }"""),
    "buttons of the panel": lambda pointers, point: pointers.page.evaluate("""() => {
        const { root } = window.panel;
        for (const part of ["[data-command=undo]", "[data-command=clear]", "[data-command=mirror]", "[value=eraser]"]) {
            root.querySelector(part).click();
        }
    }"""),
}
ENDS = {
    "lost capture": """() => { const { canvas } = window.panel;
        for (const id of Array(20).keys()) if (canvas.hasPointerCapture(id)) canvas.releasePointerCapture(id); }""",
    "window blur": WINDOW_BLUR,
    "tab switch": TAB_SWITCH,
    "full screen": "() => { window.panel.toggleFullscreen(); window.panel.toggleFullscreen(); }",
    "a loaded drawing": "async first => { await window.load(first); }",
    "a replaced drawing":
        "() => { const { editor } = window.panel; editor.resize(editor.map.width, editor.map.height); }",
    "another tool": "() => { window.panel.editor.setTool('fill'); }",
    "undo": "() => window.panel.editor.undo()",
    "Escape":
        "() => { window.panel.canvas.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape', bubbles: true })); }",
}
LINE = [(100, 60), (160, 60), (220, 60), (280, 60), (340, 60), (400, 60)]


def undone(painter, before) -> bool:
    """Whether undoing all there is brings `before` back."""
    painter.page.evaluate("() => { while (window.panel.editor.content.canUndo) window.panel.editor.undo(); }")
    return torch.equal(painter.drawing(), before)


@pytest.mark.parametrize("owner", ["mouse", "pen", "finger"])
def test_the_first_pointer_owns_the_stroke(page, painter, owner):
    """The stroke is the same as without an interruption, and one undo restores the drawing."""
    before, pointers = painter.drawing(), Pointers(page)
    painter.choose("hat")
    path = [painter.at(*point) for point in LINE]
    pointers.drag(owner, path)
    alone = painter.drawing()
    assert (alone[60, 100:400] == HAT).all()
    painter.press("Control+z")
    for name, interrupt in INTERRUPTIONS.items():
        if owner == "mouse" or name not in ("other mouse buttons", "wheel"):
            pointers.drag(owner, path, lambda: interrupt(pointers, path[2]))
            assert torch.equal(painter.drawing(), alone), name
            painter.press("Control+z")
            assert torch.equal(painter.drawing(), before), name
            assert page.evaluate("() => !window.panel.editor.content.canUndo"), name


@pytest.mark.parametrize("owner", ["mouse", "pen", "finger"])
def test_a_second_finger_changes_nothing(page, painter, owner):
    """A palm that lands, moves and leaves while another pointer works."""
    before, pointers = painter.drawing(), Pointers(page)
    path, palm = [painter.at(*point) for point in LINE], [painter.at(300, 300), painter.at(330, 340)]
    held = path[2:3] if owner == "finger" else []
    view = "() => { const { scale, left, top } = window.panel.editor.view; return [scale, left, top]; }"

    def intrude():
        pointers.touch("Start", *held, palm[0])
        pointers.touch("Move", *held, palm[1])
        if not held:
            pointers.touch("End")
    for tool in ("brush", "eraser", "move", "hand"):
        painter.choose("hat" if tool == "brush" else "hair")
        painter.choose(tool)
        pointers.drag(owner, path)
        alone, looked_at = painter.drawing(), page.evaluate(view)
        page.evaluate("() => window.panel.editor.view.fit()")
        assert undone(painter, before), tool
        pointers.drag(owner, path, intrude)
        assert torch.equal(painter.drawing(), alone) and page.evaluate(view) == looked_at, tool
        page.evaluate("() => window.panel.editor.view.fit()")
        assert undone(painter, before), tool


@pytest.mark.parametrize("owner", ["mouse", "pen", "finger"])
def test_a_stroke_that_is_cut_off_leaves_no_trace_after_undo(page, painter, owner):
    before, pointers = painter.drawing(), Pointers(page)
    path = [painter.at(*point) for point in LINE]
    for name, end in ENDS.items():
        painter.choose("brush")
        painter.choose("hat")
        pointers.drag(owner, path, lambda: page.evaluate(end, first_drawing()))
        assert (painter.drawing()[60, 300:400] != HAT).all(), f"{name}: the pointer still draws"
        painter.stroke((60, 300), (450, 300))
        assert undone(painter, before), name


def test_a_keyboard_stroke_and_a_pointer_are_two_steps(page, painter):
    before = painter.drawing()
    painter.choose("hat")
    painter.canvas.focus()
    painter.press(" ", "Shift+ArrowRight")
    page.mouse.move(*painter.at(60, 60))
    painter.press("Shift+ArrowRight")
    first = painter.drawing()
    assert (first[256, 256:276] == HAT).all() and (first[100:200] != HAT).all()
    painter.stroke((60, 400), (450, 400))
    painter.press("Control+z")
    assert torch.equal(painter.drawing(), first)
    painter.press("Control+z")
    assert torch.equal(painter.drawing(), before)


def test_a_pen_takes_over_from_a_palm(page, painter):
    pointers = Pointers(page)
    painter.choose("hat")
    path = [painter.at(*point) for point in LINE]
    before = painter.drawing()
    pointers.touch("Start", painter.at(300, 400))
    pointers.drag("pen", path)
    pointers.touch("End")
    drawing = painter.drawing()
    assert (drawing[60, 100:400] == HAT).all() and torch.equal(drawing[100:], before[100:])


@pytest.mark.parametrize("tool", ["fill", "polygon", "brush"])
def test_two_fingers_paint_nothing(page, painter, tool):
    """A polygon keeps its corners while two fingers zoom."""
    before, pointers = painter.drawing(), Pointers(page)
    painter.choose(tool)
    if tool == "polygon":
        painter.click(20, 20)
    a, b = painter.at(100, 100), painter.at(300, 100)
    pointers.touch("Start", a)
    pointers.touch("Start", a, b)
    pointers.touch("Move", a, (b[0] + 60, b[1]))
    pointers.touch("End", a)
    pointers.touch("End")
    assert torch.equal(painter.drawing(), before)
    assert page.evaluate("() => window.panel.editor.tools.polygon.points.length") == (tool == "polygon")


def test_an_offered_label_map_waits_for_the_button(page, painter):
    button = page.locator("button[data-command='start']")
    before = painter.text()
    assert not button.is_visible()
    page.evaluate("() => window.panel.offer('/painter/templates/hat.png')")
    button.wait_for()
    assert painter.text() == before
    painter.command("start")
    painter.await_drawing(lambda drawing: (drawing == HAT).any())
    page.evaluate("() => window.panel.offer('/painter/templates/bald.png')")
    taken = painter.text()
    painter.press("Control+z")
    assert painter.text() == before
    painter.press("Control+y", "l")
    painter.await_drawing(lambda drawing: not (drawing == HAT).any())
    painter.press("Control+z")
    assert painter.text() == taken
    page.evaluate("() => window.panel.offer('/painter/view.js')")
    painter.command("start")
    page.get_by_role("alert").get_by_text("The connected label map was not imported").wait_for()
    assert painter.text() == taken
    page.evaluate("() => window.panel.offer(null)")
    button.wait_for(state="hidden")
