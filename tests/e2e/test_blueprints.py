"""The blueprints, as the front end's node library offers them."""
import json

import numpy as np
import pytest

from devtools.bundled import read_model_size
from devtools.saved_graphs import ANY
from devtools.server import ROOT
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import node, system_loaders
from mditface.tests.e2e.painter_page import RUN
from mditface.tests.e2e.test_browser import UNKNOWN

FILES = {path.stem: path for path in sorted((ROOT / "subgraphs").glob("*.json"))}
FACE = "Label Map to Face (MDiTFace)"
ALONE = ("Label Map Adapter",  # draws nothing itself; the templates of the adapters do
         "Label Map to Photo (Face-MoGLE)")
SOURCES = {"label_map": "MDiT_ExampleLabelMap", "interactions": "MDiT_Interaction", "image_1": "LoadImage",
           "image_2": "LoadImage", "pose": "LoadImage", "exemplar": "LoadImage", "image": "LoadImage",
           "before": "MDiT_ExampleLabelMap", "after": "MDiT_PaintLabelMap"}  # what is connected to the sockets
COMPLETE = """sources => {
    const [blueprint] = app.graph.nodes;
    const add = (type, x, y) => {
        const made = LiteGraph.createNode(type);
        made.pos = [x, y];
        app.graph.add(made);
        return made;
    };
    blueprint.inputs.forEach(({ name }, slot) => {
        if (sources[name]) add(sources[name], -400, 400 * slot).connect(0, blueprint, slot);
    });
    blueprint.connect(0, add("PreviewImage", 500, 0), 0);
    Object.assign(app.canvas.ds, { scale: 0.8, offset: [550, 150] });
}"""
TO_API = "async () => (await app.graphToPrompt()).output"
DRAWN = """size => app.graph.nodes.some(
    node => node.type === "PreviewImage" && node.imgs?.[0]?.naturalWidth === size)"""


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
        assert {source["type"], target["type"]} - {ANY} == {link["type"]}
        assert link["id"] in (source.get("links") or source["linkIds"])
        assert link["id"] in (target.get("linkIds") or [target["link"]])


def test_they_load(page, blueprint):
    page.evaluate("graph => app.loadGraphData(graph)", blueprint)
    assert page.evaluate(UNKNOWN) == []
    slots = page.evaluate("() => app.graph.nodes[0].inputs.map(input => input.name)")
    assert slots == [slot["name"] for slot in blueprint["definitions"]["subgraphs"][0]["inputs"]]
    assert page.our_errors == []


def test_there_is_one_for_each_system():
    used = {node["type"] for path in FILES.values()
            for node in json.loads(path.read_text())["definitions"]["subgraphs"][0]["nodes"]}
    assert system_loaders() <= used


def test_a_label_map_and_the_blueprint_make_a_face(page, artefacts):
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(FILES[FACE].read_text()))
    page.evaluate(COMPLETE, SOURCES)
    page.evaluate(RUN)
    page.wait_for_function(DRAWN, arg=read_model_size(), timeout=30_000)
    page.screenshot(path=artefacts / "blueprint.png")
    assert page.our_errors == []


@pytest.mark.parametrize("name", [name for name in FILES if name not in ALONE])
def test_what_it_stands_for_draws(page, server, tiny_models, label_map_file, name):
    """On tiny models, through the graph that the front end queues for it."""
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(FILES[name].read_text()))
    page.evaluate(COMPLETE, SOURCES)
    graph = {key: node(one["class_type"], **one["inputs"]) for key, one in page.evaluate(TO_API).items()}
    picture = label_map_file("blueprint", 64, 64)
    for one in graph.values():
        if one["class_type"] == "LoadImage":
            one["inputs"]["image"] = picture  # there may have been no picture when the page was loaded
    entry = server.run(stand_ins.runnable(graph))
    (shown,) = (key for key, one in graph.items() if one["class_type"] == "PreviewImage")
    (drawn,) = entry["outputs"][shown]["images"]
    assert np.ptp(np.asarray(server.picture(drawn))) > 0
