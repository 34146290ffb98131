"""The blueprints, as the front end's node library offers them."""
import json

import pytest

from devtools.server import ROOT
from mditface.tests.e2e.test_browser import QUEUE_AND_WAIT, UNKNOWN

FILES = {path.stem: path for path in sorted((ROOT / "subgraphs").glob("*.json"))}
FACE = "Label Map to Face (MDiTFace)"
COMPLETE = """() => {
    const [blueprint] = app.graph.nodes;
    const [map, picture] = ["MDiT_ExampleLabelMap", "PreviewImage"].map(type => LiteGraph.createNode(type));
    app.graph.add(map);
    app.graph.add(picture);
    map.connect(0, blueprint, blueprint.inputs.findIndex(input => input.name === "label_map"));
    blueprint.connect(0, picture, 0);
}"""
DRAWN = "() => app.graph.nodes.some(node => node.type === 'PreviewImage' && node.imgs?.[0]?.naturalWidth === 128)"


@pytest.fixture(params=FILES)
def blueprint(request) -> dict:
    return json.loads(FILES[request.param].read_text())


def test_the_server_lists_them(server):
    listed = server.get("/global_subgraphs").items()
    ours = {entry["name"]: key for key, entry in listed if entry["info"]["node_pack"] == "custom_nodes.mditface"}
    assert ours.keys() == FILES.keys()
    for name, key in ours.items():
        assert json.loads(server.get(f"/global_subgraphs/{key}")["data"]) == json.loads(FILES[name].read_text())


def test_their_nodes_and_links_fit(blueprint, server):
    known = server.object_info()
    (inside,) = blueprint["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inside["nodes"]}
    assert {node["type"] for node in nodes.values()} <= known.keys()
    ends = {-10: {"outputs": inside["inputs"]}, -20: {"inputs": inside["outputs"]}, **nodes}
    for link in inside["links"]:
        source = ends[link["origin_id"]]["outputs"][link["origin_slot"]]
        target = ends[link["target_id"]]["inputs"][link["target_slot"]]
        assert source["type"] == target["type"] == link["type"]
        assert link["id"] in (source.get("links") or source["linkIds"])
        assert link["id"] in (target.get("linkIds") or [target["link"]])


def test_they_load(page, blueprint):
    page.evaluate("graph => app.loadGraphData(graph)", blueprint)
    assert page.evaluate(UNKNOWN) == []
    slots = page.evaluate("() => app.graph.nodes[0].inputs.map(input => input.name)")
    assert slots == [slot["name"] for slot in blueprint["definitions"]["subgraphs"][0]["inputs"]]
    assert page.our_errors == []


def test_a_label_map_and_the_blueprint_make_a_face(page, artefacts):
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(FILES[FACE].read_text()))
    page.evaluate(COMPLETE)
    page.evaluate(QUEUE_AND_WAIT)
    page.wait_for_function(DRAWN, timeout=30_000)
    page.screenshot(path=artefacts / "blueprint.png")
    assert page.our_errors == []
