"""The front end draws our nodes and runs our template."""
import json

import pytest

from mditface.tests.e2e.test_templates import TEMPLATES

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

UNKNOWN = "() => app.graph.nodes.filter(node => !LiteGraph.registered_node_types[node.type]).map(node => node.type)"


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


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_loads(page, server, artefacts, name):
    workflow = json.loads(TEMPLATES[name].read_text())
    page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
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


def complaints(server, graph: dict) -> set[str]:
    """What the host has against a graph in API form; it runs the outputs that it has nothing against."""
    answer = server.post("/prompt", {"prompt": graph}).json()
    if "prompt_id" in answer:
        server.wait(answer["prompt_id"])
    return {error["type"] for found in answer["node_errors"].values() for error in found["errors"]}
