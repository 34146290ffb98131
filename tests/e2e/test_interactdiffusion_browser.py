"""Interactions in the real front end: a saved image, dropped on the canvas, restores them."""
from mditface.nodes.interactdiffusion import FIRST_LAYOUT
from mditface.tests.e2e.graphs import node

DRAWN = FIRST_LAYOUT.replace("cat", "dog")
GRAPH = {
    "1": node("MDiT_InteractionsFromText", text="man [0.5, 0.1, 0.9, 0.9] = holding = cup [0.6, 0.4, 0.7, 0.5]"),
    "2": node("MDiT_Interaction", subject="person", action="feeding", object="cat", subject_box="10, 20, 70, 75",
              object_box="60, 45, 140, 80", previous=["1", 0], units="pixels", width=200, height=100),
    "5": node("MDiT_DrawInteractions", width=512, height=768, text=DRAWN, previous=["2", 0]),
    "3": node("MDiT_PreviewInteractions", interactions=["5", 0], width=128, height=64),
    "4": node("SaveImage", images=["3", 0], filename_prefix="dropped"),
}
QUEUE = """async graph => {
    await app.loadApiJson(graph, "graph");
    const done = new Promise(resolve => app.api.addEventListener("execution_success", resolve, {once: true}));
    await app.queuePrompt(0);
    await done;
}"""
DROP = """async () => {
    const file = await fetch("/view?type=output&filename=dropped_00001_.png");
    app.graph.clear();
    await app.handleFile(new File([await file.blob()], "dropped.png", {type: "image/png"}));
}"""
VALUES = """() => app.graph.nodes.filter(({type}) => type.startsWith("MDiT_")).map(node =>
    [node.type, ...node.widgets.map(({name, value}) => [name, value])]).sort()"""
NODES = "() => app.graph.nodes.length"


def test_an_image_restores_its_interactions(page):
    page.evaluate(QUEUE, GRAPH)
    values = page.evaluate(VALUES)
    drawn, added = values[:2]
    assert ["text", DRAWN] in drawn and ["height", 768] in drawn
    assert ["subject_box", "10, 20, 70, 75"] in added and ["units", "pixels"] in added
    page.evaluate(DROP)
    page.wait_for_function(f"({NODES})() === {len(GRAPH)}")
    assert page.evaluate(VALUES) == values
    assert page.our_errors == []
