"""Files that are dropped on an editor or pasted into it, in the host: the editor takes them, and the graph stays."""
import json
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mditface.mdit.labelmap import PALETTE, find_class
from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import FRAMES, NodePainter, RUN, connect, place

OTHER_GRAPH = {
    "version": 0.4, "last_node_id": 1, "last_link_id": 0, "links": [], "groups": [], "config": {}, "extra": {},
    "nodes": [{"id": 1, "type": "VAEDecode", "pos": [0, 0], "size": [200, 50], "flags": {}, "order": 0, "mode": 0,
               "inputs": [], "outputs": [], "properties": {}, "widgets_values": []}]}
HAIR, HAT, SKIN = map(find_class, ("hair", "hat", "skin"))


@pytest.fixture
def page(shared_page):
    shared_page.our_errors.clear()
    yield shared_page
    assert shared_page.our_errors == []


@pytest.fixture(scope="module")
def labels():
    labels = torch.zeros(96, 80, dtype=torch.uint8)
    labels[20:80, 20:60] = SKIN
    labels[10:30, 20:60] = HAIR
    return labels


@pytest.fixture(scope="module")
def files(labels, tmp_path_factory):
    """A label map that holds a graph, as Save Image writes it, a stencil, and a graph."""
    folder = tmp_path_factory.mktemp("dropped")
    graph = PngInfo()
    graph.add_text("workflow", json.dumps(OTHER_GRAPH))
    Image.fromarray(np.array(PALETTE, np.uint8)[labels]).save(folder / "map.png", pnginfo=graph)
    Image.fromarray((labels == HAIR).numpy()).save(folder / "stencil.png", pnginfo=graph)
    (folder / "graph.json").write_text(json.dumps(OTHER_GRAPH))
    return folder


def mark(page) -> None:
    page.evaluate("""() => {
        app.graph.marked = app.graph.nodes.length;
        for (const node of app.graph.nodes) node.marked = true;
    }""")


def graph_is_the_same(page) -> bool:
    """Whether the graph has the marked nodes and no other, some time after a drop."""
    page.wait_for_timeout(1000)
    return page.evaluate("""() => app.graph.nodes.length === app.graph.marked
        && app.graph.nodes.every(node => node.marked)""")


def drop(page, point, *files, link: str | None = None) -> None:
    """A real drop of files, or of a link."""
    x, y = point
    items = [{"mimeType": "text/uri-list", "data": link}] if link else []
    data = {"items": items, "files": [str(file) for file in files], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
    session.detach()


def paste(page, file) -> None:
    """A real paste of a file's image, at the focus."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("""async bytes => {
        const image = new Blob([Uint8Array.from(bytes)], { type: "image/png" });
        await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
    }""", list(file.read_bytes()))
    page.keyboard.press("Control+v")


def full_screen(page, made) -> None:
    made.press("g")
    page.locator("dialog[open]").wait_for()
    page.evaluate(FRAMES)


def test_a_file_on_the_empty_graph_is_the_hosts(renderer, page, files):
    """What the other tests would see if the host got the file."""
    NodePainter.placed(page)
    mark(page)
    drop(page, (1300, 850), files / "map.png")
    page.wait_for_function("() => app.graph.nodes.some(({ type }) => type === 'VAEDecode')")
    assert not graph_is_the_same(page)


@pytest.mark.parametrize("place_of_drop", ["canvas", "palette", "title", "full screen"])
def test_the_painter_imports_what_is_dropped(renderer, page, files, labels, place_of_drop):
    painter = NodePainter.placed(page)
    mark(page)
    before = painter.drawing()
    if place_of_drop == "full screen":
        painter.canvas.focus()
        full_screen(page, painter)
    point = painter.at(100, 100)
    if place_of_drop == "palette":
        box = painter.root.locator(".palette").bounding_box()
        point = (box["x"] + 10, box["y"] + 10)
    elif place_of_drop == "title":
        point = page.evaluate("""id => app.canvas.ds.convertOffsetToCanvas([60, -12].map(
            (by, k) => app.graph.getNodeById(id).pos[k] + by))""", painter.node_id)
        box = page.locator("#graph-canvas").bounding_box()
        point = (point[0] + box["x"], point[1] + box["y"])
    drop(page, point, files / "map.png")
    painter.await_drawing(partial(torch.equal, labels))
    assert graph_is_the_same(page)
    painter.canvas.focus()
    painter.press("Control+z")
    assert torch.equal(painter.drawing(), before)
    if place_of_drop == "full screen":
        painter.press("Escape")


@pytest.mark.parametrize("in_full_screen", [False, True])
def test_the_painter_imports_what_is_pasted(renderer, page, files, labels, in_full_screen):
    painter = NodePainter.placed(page)
    mark(page)
    painter.canvas.focus()
    if in_full_screen:
        full_screen(page, painter)
        page.locator("dialog[open] .bar").click(position={"x": 2, "y": 2})  # beside the buttons
    paste(page, files / "map.png")
    painter.await_drawing(partial(torch.equal, labels))
    assert graph_is_the_same(page)
    if in_full_screen:
        painter.press("Escape")


def test_a_stencil_becomes_the_chosen_class_in_words(page, files, labels):
    painter = NodePainter.placed(page)
    mark(page)
    painter.choose("hat")
    middle = painter.at(256, 256)
    drop(page, middle, files / "stencil.png")
    painter.root.get_by_role("alert").get_by_text("stencil.png is black and white").wait_for()
    assert "its white area became hat" in painter.root.get_by_role("alert").text_content()
    assert torch.equal(painter.drawing(), (labels == HAIR).byte() * HAT)
    painter.choose("background")
    drop(page, middle, files / "stencil.png")
    painter.root.get_by_role("alert").get_by_text("Choose its class first").wait_for()
    assert graph_is_the_same(page)


def test_the_painter_imports_an_image_of_the_page(page, server, files, labels):
    """Such as an image of the queue: a link, whose image holds a graph."""
    name = server.upload(files / "map.png")
    painter = NodePainter.placed(page)
    mark(page)
    drop(page, painter.at(100, 100), link=f"{server.url}/view?filename={name}&type=input")
    painter.await_drawing(partial(torch.equal, labels))
    assert graph_is_the_same(page)


def test_what_is_no_image_is_refused_and_opens_no_graph(renderer, page, files):
    painter = NodePainter.placed(page)
    mark(page)
    before = painter.text()
    drop(page, painter.at(100, 100), files / "graph.json")
    painter.root.get_by_role("alert").get_by_text("graph.json was not imported: the file cannot be read").wait_for()
    assert painter.text() == before and graph_is_the_same(page)


@pytest.mark.parametrize("in_full_screen", [False, True])
def test_the_editor_of_interactions_says_what_it_takes(renderer, page, files, in_full_screen):
    editor = NodeEditor.placed(page)
    mark(page)
    before = editor.text()
    if in_full_screen:
        editor.canvas.focus()
        full_screen(page, editor)
    drop(page, editor.at(100, 100), files / "map.png")
    message = editor.root.get_by_role("alert").get_by_text("This editor takes no files")
    message.wait_for()
    assert editor.text() == before and graph_is_the_same(page)
    editor.canvas.focus()
    editor.press("n")
    editor.draw((0.1, 0.1, 0.3, 0.3))
    editor.draw((0.5, 0.5, 0.8, 0.8))
    message.wait_for(state="hidden")
    paste(page, files / "map.png")
    editor.canvas.focus()
    paste(page, files / "map.png")
    message.wait_for()
    assert graph_is_the_same(page)
    if in_full_screen:
        editor.press("Escape")


def test_the_host_runs_what_was_imported(page, server, files, labels):
    painter = NodePainter.placed(page)
    drop(page, painter.at(100, 100), files / "map.png")
    painter.await_drawing(partial(torch.equal, labels))
    preview = place(page, "PreviewImage", 900)
    connect(page, painter.node_id, 0, preview, "images")
    (saved,) = server.wait(page.evaluate(RUN))["outputs"][str(preview)]["images"]
    assert np.array_equal(np.array(server.picture(saved)), np.array(PALETTE)[labels])
