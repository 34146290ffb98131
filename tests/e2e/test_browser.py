"""The front end draws our nodes and runs our template."""
import json

QUEUE_AND_WAIT = """async () => {
    const done = new Promise((resolve, reject) => {
        const fail = event => reject(event.detail.exception_message);
        app.api.addEventListener("execution_success", resolve, { once: true });
        app.api.addEventListener("execution_error", fail, { once: true });
    });
    await app.queuePrompt(0);
    await done;
}"""
PICTURE_SHOWN = """() => app.graph.nodes.some(
    node => node.type === "SaveImage" && node.imgs?.length && node.imgs[0].naturalWidth > 0)"""


def test_every_node_can_be_placed(page, server):
    ids = [name for name in server.object_info() if name.startswith("MDiT_")]
    assert ids
    placed = page.evaluate("ids => ids.filter(id => app.graph.add(LiteGraph.createNode(id))).length", ids)
    assert placed == len(ids)
    assert page.our_errors == []


def test_the_template_runs(page, root, artefacts):
    workflow = json.loads((root / "example_workflows" / "mditface.json").read_text())
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
    page.evaluate(QUEUE_AND_WAIT)
    page.wait_for_function(PICTURE_SHOWN, timeout=30_000)
    page.screenshot(path=artefacts / "template.png")
    assert page.our_errors == []
