"""Painting a label map in the front end, with both ways of drawing nodes."""
import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import CLASSES, PALETTE, find_class, encode_drawing
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e.graphs import node
from mditface.tests.e2e.painter_page import (
    RUN, NodePainter, choose, connect, copied, errors_when_queued, inside_subgraph, place, show,
)

HAT, HAIR = map(find_class, ("hat", "hair"))


@pytest.fixture
def page(shared_page):
    shared_page.our_errors.clear()
    return shared_page


@pytest.fixture
def painter(page):
    made = NodePainter.placed(page)
    yield made
    assert page.our_errors == []


def picture(server, page, source: int) -> Image.Image:
    """What a run saves of a node's first output."""
    preview = place(page, "PreviewImage", 900)
    connect(page, source, 0, preview, "images")
    entry = server.wait(page.evaluate(RUN))
    page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", preview)
    (saved,) = entry["outputs"][str(preview)]["images"]
    return server.picture(saved)


def test_painted_pixels_arrive_at_the_output(renderer, page, painter, server, artefacts):
    assert painter.text() == first_drawing()
    painter.choose("hat")
    painter.stroke((100, 60), (400, 60))
    drawing = painter.drawing()
    assert (drawing[50:70, 100:400] == HAT).all() and (drawing[:40] != HAT).all()
    page.screenshot(path=artefacts / f"painter {renderer}.png")
    arrived = picture(server, page, painter.node_id)
    assert arrived.size == (512, 512)
    assert np.array_equal(np.array(arrived), np.array(PALETTE)[drawing])


def test_undo_and_redo_stay_in_the_painter(renderer, page, painter):
    page.evaluate("id => { app.graph.getNodeById(id).marked = true; }", painter.node_id)
    states = [painter.drawing()]
    for y in (100, 200, 300):
        painter.stroke((60, y), (450, y))
        states.append(painter.drawing())
    assert not any(torch.equal(*pair) for pair in zip(states, states[1:]))
    for state in states[-2::-1]:
        painter.press("Control+z")
        assert torch.equal(painter.drawing(), state)
    painter.press("Control+z")
    painter.command("redo")
    assert torch.equal(painter.drawing(), states[1])
    painter.press("Control+Shift+z", "Control+y")
    assert torch.equal(painter.drawing(), states[3])
    page.wait_for_timeout(300)
    assert page.evaluate("id => app.graph.getNodeById(id).marked", painter.node_id), "the host's undo rebuilt the graph"


def test_the_host_has_its_own_step_for_a_stroke(page, painter):
    before = painter.text()
    page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    painter.stroke((60, 100), (450, 100))
    painter.text()
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function("([id, text]) => app.graph.getNodeById(id)?.widgets[0].value === text",
                           arg=[painter.node_id, before])


def test_a_reloaded_page_shows_the_drawing(page, painter):
    painter.stroke((60, 100), (450, 100))
    text = painter.text()
    page.wait_for_timeout(1500)  # the front end keeps its draft a little later
    page.reload()
    page.wait_for_function("() => window.app?.graph?.nodes?.some(node => node.type === 'MDiT_PaintLabelMap')")
    show(page)
    assert painter.text() == text
    painter.choose("hat")
    painter.stroke((60, 200), (450, 200))
    assert painter.text() != text


def test_a_workflow_brings_the_drawing_back(renderer, page, painter):
    painter.stroke((60, 100), (450, 100))
    text = painter.text()
    page.evaluate("async () => { const saved = app.graph.serialize(); await app.loadGraphData(saved); }")
    painter.canvas.wait_for()
    assert painter.text() == text


def test_a_workflow_brings_locks_and_what_strokes_cover_back(renderer, page, painter):
    painter.root.get_by_role("button", name="Lock skin").click()
    painter.root.get_by_label("What strokes cover").select_option("background")
    before = painter.drawing()
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()); }")
    show(page)
    loaded = NodePainter(page, painter.node_id)
    loaded.root.locator(".lock[aria-pressed='true']").wait_for()
    assert loaded.root.locator("select").input_value() == "background"
    loaded.choose("hat")
    loaded.stroke((10, 300), (500, 300))
    after = loaded.drawing()
    assert (after != before).any() and (before[after != before] == 0).all()
    loaded.root.locator("select").select_option("everything")
    loaded.stroke((10, 300), (500, 300))
    skin = before == CLASSES.index("skin")
    assert (loaded.drawing()[skin] == before[skin]).all() and (loaded.drawing() != after).any()


def test_a_saved_picture_brings_the_drawing_back(page, painter, server):
    painter.stroke((60, 100), (450, 100))
    text, saver = painter.text(), place(page, "SaveImage", 900)
    connect(page, painter.node_id, 0, saver, "images")
    (file,) = server.wait(page.evaluate(RUN))["outputs"][str(saver)]["images"]
    page.evaluate("""async file => {
        const saved = await (await fetch(`/view?${new URLSearchParams(file)}`)).blob();
        app.graph.clear();
        await app.handleFile(new File([saved], "dropped.png", { type: "image/png" }));
    }""", file)
    page.wait_for_function("() => app.graph.nodes.length === 2")
    show(page)
    dropped = page.evaluate("() => app.graph.nodes.find(node => node.type === 'MDiT_PaintLabelMap').id")
    assert NodePainter(page, dropped).text() == text


def test_copies_share_nothing(renderer, page, painter):
    painter.stroke((60, 100), (450, 100))
    text = painter.text()
    other = NodePainter(page, copied(page, painter.node_id), 1)
    assert other.text() == text
    sizes = page.evaluate("() => app.graph.nodes.map(node => [...node.size])")
    assert sizes[0] == pytest.approx(sizes[1], abs=1)
    other.choose("hat")
    other.stroke((60, 300), (450, 300))
    assert (other.drawing()[300, 100:400] == HAT).all()
    assert painter.text() == text
    painter.press("Control+z")
    assert other.text() == text
    assert page.locator(".painter").count() == 2


def test_it_works_inside_a_subgraph(renderer, page, painter, server):
    painter.stroke((60, 100), (450, 100))
    text = painter.text()
    preview = place(page, "PreviewImage", 900)
    connect(page, painter.node_id, 0, preview, "images")
    inside = NodePainter(page, inside_subgraph(page, painter.node_id))
    assert inside.text() == text
    inside.choose("hat")
    inside.stroke((60, 200), (450, 200))
    assert (inside.drawing()[200, 100:400] == HAT).all()
    entry = server.wait(page.evaluate(RUN))
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    (saved,) = entry["outputs"][str(preview)]["images"]
    assert server.picture(saved).getpixel((250, 200)) == PALETTE[HAT]


def test_a_bad_value_is_an_error_on_the_node(renderer, page, painter):
    preview = place(page, "PreviewImage", 900)
    connect(page, painter.node_id, 0, preview, "images")
    page.evaluate("id => { app.graph.getNodeById(id).widgets[0].value = 'labelmap1;4x4;AAAA'; }", painter.node_id)
    painter.root.get_by_role("alert").get_by_text("The saved drawing cannot be read").wait_for()
    errors = errors_when_queued(page, painter.node_id)  # the host repeats it for each input that was checked with it
    assert errors and all("drawing: the data is damaged" in error["details"] for error in errors)
    assert painter.text() == "labelmap1;4x4;AAAA"
    painter.command("clear")
    assert (painter.drawing() == 0).all()
    painter.root.locator(".message").wait_for(state="hidden")


def test_the_picture_underneath_does_not_enter_the_drawing(renderer, page, painter, server, tmp_path, artefacts):
    Image.linear_gradient("L").convert("RGB").resize((300, 400)).save(tmp_path / "under.png")
    loaded = place(page, "LoadImage", 900, 300)
    choose(page, loaded, server.upload(tmp_path / "under.png"))
    before, slider = painter.text(), painter.root.locator(".status input[type=range]")
    assert not slider.is_visible()
    connect(page, loaded, 0, painter.node_id, "background")
    arrived = picture(server, page, painter.node_id)
    slider.wait_for()
    assert painter.text() == before
    assert arrived.getpixel((5, 5)) == PALETTE[0]
    slider.fill("0.3")
    page.screenshot(path=artefacts / f"painter over a picture, {renderer}.png")
    painter.command("size")
    page.get_by_role("button", name="Match the image").click()
    page.get_by_role("button", name="Apply").click()
    assert painter.drawing().shape == (400, 300)
    page.evaluate("id => app.graph.getNodeById(id).disconnectInput(0)", painter.node_id)
    slider.wait_for(state="hidden")


def test_a_connected_label_map_is_taken_over_by_the_button_alone(renderer, page, painter, server, tmp_path, artefacts):
    maps = []
    for k, name in ((HAT, "hat"), (HAIR, "hair")):
        labels = np.zeros((96, 64), np.uint8)
        labels[20:50, 10:40] = k
        maps.append(labels)
        Image.fromarray(np.array(PALETTE, np.uint8)[labels]).save(tmp_path / f"start with {name}.png")
    first, second = (server.upload(tmp_path / f"start with {name}.png") for name in ("hat", "hair"))
    loaded = place(page, "LoadImage", 900, 300)
    button = painter.root.locator("button[data-command='start']")
    before = painter.drawing()
    assert not button.is_visible()
    choose(page, loaded, first)
    connect(page, loaded, 0, painter.node_id, "start")
    button.wait_for()
    picture(server, page, painter.node_id)
    assert torch.equal(painter.drawing(), before)
    page.screenshot(path=artefacts / f"painter with a start, {renderer}.png")
    assert painter.root.locator(".bar").bounding_box()["height"] < 40, "the bar takes two lines"
    button.click()
    painter.await_drawing(lambda drawing: np.array_equal(drawing, maps[0]))
    painter.stroke((5, 80), (60, 80))
    own = painter.text()
    choose(page, loaded, second)
    page.wait_for_timeout(1000)
    assert painter.text() == own and button.is_visible()
    painter.press("Control+z", "Control+z")
    assert torch.equal(painter.drawing(), before)
    button.click()
    painter.await_drawing(lambda drawing: np.array_equal(drawing, maps[1]))
    page.evaluate("id => { const node = app.graph.getNodeById(id);"
                  " node.disconnectInput(node.inputs.findIndex(({ name }) => name === 'start')); }", painter.node_id)
    button.wait_for(state="hidden")
    assert np.array_equal(painter.drawing(), maps[1])


def test_a_label_map_of_other_nodes_is_offered_after_a_run(renderer, page, painter, server):
    page.evaluate("() => { app.nodeOutputs = {}; }")  # of nodes of other tests, whose ids come again
    server.free()  # a cached graph would not run
    example = place(page, "MDiT_ExampleLabelMap", 900, 300)
    connect(page, example, 0, painter.node_id, "start")
    button = painter.root.locator("button[data-command='start']")
    page.wait_for_timeout(500)
    assert not button.is_visible()
    before = painter.drawing()
    picture(server, page, painter.node_id)
    button.wait_for()
    assert torch.equal(painter.drawing(), before)
    painter.canvas.focus()
    painter.press("l")
    painter.await_drawing(lambda drawing: not torch.equal(drawing, before))


def test_the_wheel_is_the_graphs_until_the_painter_has_the_focus(renderer, page, painter):
    scale = page.evaluate("() => app.canvas.ds.scale")
    page.mouse.move(*painter.at(256, 256))
    page.mouse.wheel(0, 100)
    page.wait_for_function("before => app.canvas.ds.scale !== before", arg=scale)
    show(page)
    painter.canvas.focus()
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(300)
    assert page.evaluate("() => app.canvas.ds.scale") == 1


def test_parts_move_together_and_the_view_moves_with_space(renderer, page, painter):
    """The host has uses of its own for Shift, Space and the wheel; the painter with the focus keeps them."""
    drawing = painter.drawing()
    graph = page.evaluate("() => [app.canvas.ds.scale, [...app.canvas.ds.offset]]")
    painter.choose("hat")
    painter.stroke((100, 60), (400, 60))
    painter.choose("nose")
    painter.choose("move")
    page.keyboard.down("Shift")
    painter.click(250, 60)
    page.keyboard.up("Shift")
    painter.stroke((250, 60), (250, 80))
    moved = painter.drawing()
    assert (moved[70:90, 100:400] == HAT).all() and (moved[40:60] == HAT).sum() == 0
    noses = [torch.nonzero(found == find_class("nose"))[:, 0].float().mean() for found in (drawing, moved)]
    assert abs(noses[1] - noses[0] - 20) < 1
    zoom = painter.root.locator(".status .number")
    shown = zoom.text_content()
    page.keyboard.down("Space")
    painter.stroke((250, 250), (300, 250))
    page.keyboard.up("Space")
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert torch.equal(painter.drawing(), moved) and zoom.text_content() != shown
    assert page.evaluate("() => [app.canvas.ds.scale, [...app.canvas.ds.offset]]") == graph


def test_headless_values(server):
    """The value works without a front end."""
    drawing = torch.arange(64, dtype=torch.uint8).reshape(8, 8) % len(CLASSES)
    entry = server.run({
        "paint": node("MDiT_PaintLabelMap", drawing=encode_drawing(drawing), class_name="hair"),
        "picture": node("PreviewImage", images=["paint", 0]),
        "mask": node("MaskToImage", mask=["paint", 1]),
        "covered": node("PreviewImage", images=["mask", 0]),
        "width": node("PreviewAny", source=["paint", 2]),
    })
    shown = server.picture(entry["outputs"]["picture"]["images"][0])
    assert np.array_equal(np.array(shown), np.array(PALETTE)[drawing])
    mask = server.picture(entry["outputs"]["covered"]["images"][0]).convert("L")
    assert np.array_equal(np.array(mask) > 0, drawing == HAIR)
    assert entry["outputs"]["width"]["text"] == ["8"]


def test_chinese(page):
    """The last of the page's tests: with another language, the front end loads its graph again a little later."""
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    page.wait_for_timeout(2000)
    try:
        painter = NodePainter.placed(page)
        assert painter.root.get_by_role("radiogroup").get_by_text("\u5934\u53d1", exact=True).is_visible()
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
