"""The front end offers, draws and runs what the pack brings: templates, nodes and help pages."""
import json

import numpy as np
import pytest
from PIL import Image

from mditface.mdit.labelmap import find_class
from mditface.tests.e2e.painter_page import NodePainter
from mditface.tests.e2e.test_photos import PHOTOS
from mditface.tests.e2e.test_templates import TEMPLATES

PICTURE_SHOWN = """() => app.graph.nodes.some(
    node => node.type === "SaveImage" && node.imgs?.length && node.imgs[0].naturalWidth > 0)"""

UNKNOWN = "() => app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"
CARDS = "[data-testid^='template-workflow-']"  # of the template browser
OPENED = "title => app.extensionManager.workflow.activeWorkflow?.filename === title"
LOAD = """async name => {
    const graph = await (await app.api.fetchApi(`/workflow_templates/mditface/${name}.json`)).json();
    await app.loadGraphData(graph, true, true, name, { openSource: "template" });
}"""
DRAWN = "() => document.querySelectorAll('[data-node-id]').length"
LISTEN = """() => {
    window.ran = new Promise((resolve, reject) => {
        app.api.addEventListener("execution_success", ({ detail }) => resolve(detail.prompt_id), { once: true });
        app.api.addEventListener("execution_error", ({ detail }) => reject(detail.exception_message), { once: true });
    });
}"""
IDS = """type => app.graph.nodes.filter(node => node.type === type).map(node => node.id)"""


def search_templates(page, name: str):
    """Search a template in the open template browser, as a person does; its card."""
    search = page.get_by_role("dialog").get_by_placeholder("Search ...")  # the panel of errors may have one, too
    search.fill("qqqq")
    page.locator(CARDS).first.wait_for(state="detached")  # what follows is the answer to the next words
    search.fill(name.removesuffix(".app"))  # the browser lists only the first 24 before it is scrolled
    card = page.get_by_test_id(f"template-workflow-{name}")
    card.wait_for()
    return card


def show_templates(page) -> None:
    page.get_by_role("button", name="Templates", exact=True).click()
    page.get_by_role("dialog").get_by_text("mditface", exact=True).click()


def open_template(page, name: str) -> None:
    """Choose a template in the template browser, as a person does."""
    show_templates(page)
    search_templates(page, name).click()
    page.wait_for_function(OPENED, arg=name.removesuffix(".app"))


def load_template(page, name: str) -> None:
    """What the template browser does with a chosen template."""
    page.evaluate(LOAD, name)
    page.wait_for_function(OPENED, arg=name.removesuffix(".app"))


def test_every_node_can_be_placed(renderer, page, server, artefacts):
    ids = [name for name in server.object_info() if name.startswith("MDiT_")]
    assert ids
    page.evaluate("""() => {
        app.graph.clear();
        Object.assign(app.canvas.ds, { scale: 0.18, offset: [500, 400] });
    }""")
    placed = page.evaluate("""ids => ids.filter((id, k) => {
        const node = LiteGraph.createNode(id);
        node.pos = [700 * (k % 7), 800 * Math.floor(k / 7)];
        return app.graph.add(node);
    }).length""", ids)
    assert placed == len(ids)
    if renderer == "nodes 2.0":
        page.wait_for_function(f"count => ({DRAWN})() === count", arg=len(ids))
    page.screenshot(path=artefacts / f"every node, {renderer}.png")
    assert page.our_errors == []


def test_hair_painted_in_the_template_changes_the_face(renderer, page, server, artefacts):
    """What a person does who sees the pack for the first time."""
    open_template(page, "2 Paint a face, all nodes")
    (saved,) = page.evaluate(IDS, "SaveImage")

    def face() -> np.ndarray:
        page.evaluate(LISTEN)
        page.get_by_test_id("queue-button").click()
        entry = server.wait(page.evaluate("() => window.ran"))
        picture = server.picture(entry["outputs"][str(saved)]["images"][0])
        return np.asarray(picture.resize((128, 128), Image.Resampling.BOX)).astype(float)
    before = face()
    (node_id,) = page.evaluate(IDS, "MDiT_PaintLabelMap")
    page.evaluate("""id => {
        const [x, y] = app.graph.getNodeById(id).pos;
        Object.assign(app.canvas.ds, { scale: 1, offset: [150 - x, 120 - y] });
        app.canvas.setDirty(true, true);
    }""", node_id)
    page.wait_for_timeout(500)  # the front end moves widgets after it has drawn
    painter = NodePainter(page, node_id)
    drawing = painter.drawing()
    painter.choose("background")
    for x in (110, 140, 370, 400):  # the long hair beside the neck goes
        painter.stroke((x, 330), (x, 505))
    assert (painter.drawing() == find_class("hair")).sum() < 0.9 * (drawing == find_class("hair")).sum()
    page.screenshot(path=artefacts / f"shorter hair, {renderer}.png")
    after = face()
    page.wait_for_function(PICTURE_SHOWN)
    page.screenshot(path=artefacts / f"template, {renderer}.png")
    change = abs(after - before).mean(axis=2)  # (128, 128)
    sides = np.r_[24:40, 88:104]
    assert change[85:125][:, sides].mean() > 2 * change[40:75, 50:78].mean() > 0
    assert page.our_errors == []


def test_a_bad_input_is_told_with_its_node(renderer, page, artefacts):
    """A label map read in another palette: the node is outlined, the message stands beside its title."""
    workflow = json.loads(TEMPLATES["2 Paint a face, all nodes"].read_text())
    (wrong,) = (node for node in workflow["nodes"] if node["type"] == "MDiT_MaskTokenizer")
    wrong["widgets_values"][0] = "index picture"
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function("() => app.lastExecutionError")
    page.get_by_role("button", name="View details").click()
    page.get_by_text("are far from every entry of the palette").first.wait_for()
    page.screenshot(path=artefacts / f"error, {renderer}.png")
    assert page.evaluate("() => app.lastExecutionError.node_id") == str(wrong["id"])
    assert page.our_errors == []


def test_the_template_browser_finds_every_template(page):
    """Opening it costs more than what it opens, so the next test opens each without it."""
    show_templates(page)
    for name in TEMPLATES:
        search_templates(page, name)
    assert page.our_errors == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_opens(page, server, artefacts, name):
    workflow = json.loads(TEMPLATES[name].read_text())
    load_template(page, name)
    assert page.evaluate(UNKNOWN) == []
    assert page.evaluate("() => app.graph.nodes.length") == len(workflow["nodes"])
    page.screenshot(path=artefacts / f"{name}.png")
    graph = page.evaluate("async () => (await app.graphToPrompt()).output")
    twin = TEMPLATES[name].parent / "api" / TEMPLATES[name].name  # python dev.py renew
    assert {key: {part: node[part] for part in ("class_type", "inputs")} for key, node in graph.items()} == json.loads(
        twin.read_text())
    # models and pictures that are not on this machine
    assert complaints(server, graph) <= {"value_not_in_list", "custom_validation_failed"}
    assert page.our_errors == []


@pytest.mark.parametrize("renderer", ["nodes 2.0"], indirect=True)
@pytest.mark.parametrize("name", ["4 Painted face to photo (Face-MoGLE)", "4 Painted face to photo (MMFace-DiT)",
                                  "4 Sketch to photo (MMFace-DiT)", "6 FLUX, colours for a photo (OminiControl)",
                                  "3 Photo, change the hair", "4 Painted face to photo (FLUX, EasyControl)",
                                  "4 Painted face to photo (FLUX 2 Klein)", *PHOTOS])
def test_templates_of_photographs_are_drawn_by_the_other_renderer(renderer, page, artefacts, name):
    load_template(page, name)
    count = len(json.loads(TEMPLATES[name].read_text())["nodes"])
    page.wait_for_function(f"count => ({DRAWN})() === count", arg=count)
    page.screenshot(path=artefacts / f"{name}, {renderer}.png")
    assert page.evaluate(UNKNOWN) == []
    assert page.our_errors == []


def test_the_picture_of_a_help_page_opens_its_graph(page, artefacts):
    """Dragged from the panel beside the canvas."""
    page.evaluate("""() => {
        const node = LiteGraph.createNode("MDiT_EditLabelMap");
        app.graph.clear();
        app.graph.add(node);
        app.canvas.selectItems([node]);
    }""")
    page.get_by_test_id("info-button").click()
    picture = page.locator("img[src$='docs/MDiT_EditLabelMap.png']")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("""() => [...document.images].filter(({ src }) => src.includes("/docs/"))
        .every(image => image.complete && image.naturalWidth)""")
    page.wait_for_timeout(500)  # the panel scrolls
    page.screenshot(path=artefacts / "help page.png")
    box, mouse = picture.bounding_box(), page.mouse
    mouse.move(box["x"] + 90, box["y"] + 30)
    mouse.down()
    mouse.move(box["x"] - 100, box["y"] + 30, steps=5)
    mouse.move(500, 800, steps=5)
    page.wait_for_timeout(300)  # the browser asks the canvas whether it takes the picture
    mouse.up()
    page.wait_for_function("() => app.graph.nodes.length === 4")
    assert page.evaluate(UNKNOWN) == []


def complaints(server, graph: dict) -> set[str]:
    """What the host has against a graph in API form; it runs the outputs that it has nothing against."""
    answer = server.post("/prompt", {"prompt": graph}).json()
    if "prompt_id" in answer:
        server.wait(answer["prompt_id"])
    return {error["type"] for found in answer["node_errors"].values() for error in found["errors"]}
