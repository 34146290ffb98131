"""Drawing interactions in the front end, with both ways of drawing nodes."""
import json

import pytest
from PIL import Image

from mditface.mdit.interactdiffusion.text import parse_interactions
from mditface.nodes.interactdiffusion import FIRST_LAYOUT
from mditface.tests.e2e.graphs import node, text_of
from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import (
    RUN, choose, connect, copied, errors_when_queued, inside_subgraph, place, show,
)

MAN = (0.5, 0.1, 0.95, 0.9), (0.55, 0.2, 0.7, 0.35)
SIZE = "id => app.graph.getNodeById(id).widgets.filter(({name}) => name !== 'text').map(({value}) => value)"


def close(box):
    return pytest.approx(box, abs=0.01)


@pytest.fixture
def page(shared_page):
    shared_page.our_errors.clear()
    return shared_page


@pytest.fixture
def editor(page):
    made = NodeEditor.placed(page)
    yield made
    assert page.our_errors == []


def arrived(server, page, source: int) -> list:
    """What a run hands on as INTERACTIONS."""
    probe = place(page, "Probe_Interactions", 900)
    connect(page, source, 0, probe, "interactions")
    entry = server.wait(page.evaluate(RUN))
    page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", probe)
    return json.loads(text_of(entry, str(probe)))


def test_drawn_interactions_arrive(renderer, page, editor, server, artefacts):
    assert editor.text() == FIRST_LAYOUT
    editor.draw_pair(*MAN, "man", "holding", "hair drier")
    page.screenshot(path=artefacts / f"interactions {renderer}.png")
    first, second = arrived(server, page, editor.node_id)
    assert first == [*parse_interactions(FIRST_LAYOUT)[0][:3], *map(list, parse_interactions(FIRST_LAYOUT)[0][3:])]
    assert second[:3] == ["man", "holding", "hair drier"]
    assert second[3] == close(MAN[0]) and second[4] == close(MAN[1])


def test_undo_and_redo_stay_in_the_editor(renderer, page, editor):
    page.evaluate("id => { app.graph.getNodeById(id).marked = true; }", editor.node_id)
    states, way = [editor.text()], ((0.15, 0.25), (0.3, 0.3), (0.4, 0.2), (0.2, 0.3))
    for start, end in zip(way, way[1:]):
        editor.drag(start, end)
        states.append(editor.text())
    assert len(set(states)) == 4
    for state in states[-2::-1]:
        editor.press("Control+z")
        assert editor.text() == state
    editor.press("Control+z")
    editor.command("redo")
    assert editor.text() == states[1]
    editor.press("Control+Shift+z", "Control+y")
    assert editor.text() == states[3]
    page.wait_for_timeout(300)
    assert page.evaluate("id => app.graph.getNodeById(id).marked", editor.node_id), "the host's undo rebuilt the graph"


def test_words_are_typed_cut_and_pasted_without_the_graph(renderer, page, editor):
    page.evaluate("id => app.canvas.selectItems([app.graph.getNodeById(id)])", editor.node_id)
    field = editor.field(1, "subject")
    field.click()
    editor.press("Control+a", "Control+c", "Delete", "Control+v")
    page.keyboard.type(" r")
    assert editor.interactions[0].subject == "person r"
    box = field.bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.keyboard.type("x")
    assert editor.interactions[0].subject == "x"
    editor.press("Enter")
    page.wait_for_timeout(200)
    assert page.evaluate("() => app.graph.nodes.map(({pos}) => [...pos])") == [[0, 0]]


def test_the_host_has_its_own_step(page, editor):
    editor.drag((0.15, 0.25), (0.3, 0.3))
    before = editor.text()
    editor.drag((0.3, 0.3), (0.5, 0.3))
    assert editor.text() != before
    page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    page.wait_for_function("([id, text]) => app.graph.getNodeById(id)?.widgets.at(-1).value === text",
                           arg=[editor.node_id, before])


def test_a_reloaded_page_shows_the_interactions(page, editor):
    editor.draw_pair(*MAN, "man")
    text = editor.text()
    page.wait_for_timeout(1500)  # the front end keeps its draft a little later
    page.reload()
    page.wait_for_function("() => window.app?.graph?.nodes?.some(node => node.type === 'MDiT_DrawInteractions')")
    show(page)
    assert editor.text() == text
    assert editor.field(2, "subject").input_value() == "man"
    editor.drag((0.9, 0.8), (0.8, 0.8))
    assert editor.text() != text


def test_a_workflow_brings_everything_back(renderer, page, editor):
    editor.draw_pair(*MAN, "man")
    page.evaluate("""id => {
        const [width] = app.graph.getNodeById(id).widgets;
        width.value = 768;
        width.callback?.(768);
    }""", editor.node_id)
    text = editor.text()
    page.evaluate("async () => { const saved = app.graph.serialize(); await app.loadGraphData(saved); }")
    editor.canvas.wait_for()
    assert editor.text() == text
    editor.root.get_by_text("768 \u00d7 512").wait_for()


def test_copies_share_nothing(renderer, page, editor):
    editor.draw_pair(*MAN, "man")
    text = editor.text()
    other = NodeEditor(page, copied(page, editor.node_id), 1)
    assert other.text() == text
    other.drag((0.9, 0.8), (0.8, 0.8))
    assert other.text() != text and editor.text() == text
    assert page.locator(".interactions").count() == 2


def test_it_works_inside_a_subgraph(renderer, page, editor, server):
    probe = place(page, "Probe_Interactions", 900)
    connect(page, editor.node_id, 0, probe, "interactions")
    inside = NodeEditor(page, inside_subgraph(page, editor.node_id))
    assert inside.text() == FIRST_LAYOUT
    inside.draw_pair(*MAN, "man")
    entry = server.wait(page.evaluate(RUN))
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    assert json.loads(text_of(entry, str(probe)))[1][0] == "man"


def test_a_bad_value_is_an_error_on_the_node(renderer, page, editor):
    probe = place(page, "Probe_Interactions", 900)
    connect(page, editor.node_id, 0, probe, "interactions")
    bad = FIRST_LAYOUT.replace("0.668", "1.668")
    page.evaluate("([id, bad]) => { app.graph.getNodeById(id).widgets.at(-1).value = bad; }", [editor.node_id, bad])
    editor.root.get_by_role("alert").get_by_text("The editor cannot show the saved text").wait_for()
    (error,) = errors_when_queued(page, editor.node_id)
    assert "text: interaction 1, object_box: the box (0.2891, 0.4766, 1.668, 0.793) reaches outside" in error["details"]
    assert editor.text() == bad
    editor.command("clear")
    editor.draw_pair(*MAN, "man")
    assert len(editor.interactions) == 1
    editor.root.locator(".message").wait_for(state="hidden")


def test_the_size_is_the_nodes(renderer, page, editor, server, tmp_path, artefacts):
    """By the pop-up, by the picture underneath, and by another node after a run."""
    Image.linear_gradient("L").convert("RGB").resize((304, 400)).save(tmp_path / "under.png")
    loaded = place(page, "LoadImage", 900, 300)
    choose(page, loaded, server.upload(tmp_path / "under.png"))
    connect(page, loaded, 0, editor.node_id, "background")
    page.evaluate("""id => app.graph.getNodeById(id).widgets.slice(0, 2).forEach(widget => {
        widget.value = 512;
        widget.callback?.(512);
    })""", editor.node_id)
    editor.root.get_by_text("512 \u00d7 512").wait_for()
    before = arrived(server, page, editor.node_id)
    page.wait_for_timeout(500)
    page.screenshot(path=artefacts / f"interactions over a picture, {renderer}.png")
    editor.command("size")
    page.get_by_role("button", name="Match the image").click()
    page.get_by_role("button", name="Apply").click()
    assert page.evaluate(SIZE, editor.node_id) == [304, 400]
    assert arrived(server, page, editor.node_id) == before
    number = place(page, "PrimitiveInt", 900, 700)
    page.evaluate("id => { app.graph.getNodeById(id).widgets[0].value = 1024; }", number)
    connect(page, number, 0, editor.node_id, "width")
    arrived(server, page, editor.node_id)
    editor.root.get_by_text("1024 \u00d7 400").wait_for()


def test_headless_values(server):
    """The value works without a front end, in each way of writing it, and other interactions come first."""
    line = "man [0.5, 0.1, 0.95, 0.9] = holding = cup [0.55, 0.2, 0.7, 0.35]"
    entry = server.run({
        "first": node("MDiT_DrawInteractions", width=512, height=768, text=line),
        "second": node("MDiT_DrawInteractions", width=64, height=64, text=FIRST_LAYOUT, previous=["first", 0]),
        "probe": node("Probe_Interactions", interactions=["second", 0]),
    })
    assert [one[0] for one in json.loads(text_of(entry, "probe"))] == ["man", "person"]
    assert entry["outputs"]["first"]["size"] == [512, 768]  # what the editor shows after a run


def test_nothing_drawn_is_no_interaction(server):
    entry = server.run({"draw": node("MDiT_DrawInteractions", width=512, height=512, text=""),
                        "probe": node("Probe_Interactions", interactions=["draw", 0])})
    assert text_of(entry, "probe") == "[]"


def test_chinese(page):
    """The last of the page's tests: with another language, the front end loads its graph again a little later."""
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'zh')")
    page.wait_for_timeout(2000)
    try:
        editor = NodeEditor.placed(page)
        assert editor.field(1, "subject").get_attribute("placeholder") == "\u4e3b\u4f53"
    finally:
        page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")
