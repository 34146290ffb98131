"""A node that gained inputs and outputs finds them in the templates and blueprints after dev.py renew."""
import json
import shutil

from devtools import saved_graphs
from devtools.node_info import read_pack

NODE = {
    "input": {"required": {"image": ("IMAGE", {}), "size": ("INT", {"default": 256})},
              "optional": {"mask": ("MASK", {}), "units": (["auto", "pixels"], {"default": "auto"}),
                           "notes": ("STRING", {"default": "", "socketless": True}),
                           "more": ("COMFY_AUTOGROW_V3", {})}},
    "output_name": ["faces", "report"], "output": ["IMAGE", "STRING"],
}


def saved_node() -> dict:
    return {"id": 1, "type": "MDiT_CropFace", "widgets_values": [512],
            "outputs": [{"name": "faces", "type": "IMAGE", "links": [3]}],
            "inputs": [{"name": "image", "type": "IMAGE", "link": 1}, {"name": "size", "type": "INT", "link": None}]}


def test_new_slots_stand_behind_the_saved_ones_with_their_defaults(tmp_path):
    (tmp_path / "example_workflows").mkdir()
    (tmp_path / "subgraphs").mkdir()
    file = tmp_path / "subgraphs" / "one.json"
    inside = {"definitions": {"subgraphs": [
        {"id": "blueprint", "nodes": [saved_node()], "links": [], "inputs": [], "outputs": []}]}}
    note = {"id": 2, "type": "MarkdownNote", "inputs": [], "outputs": []}
    file.write_text(json.dumps({"nodes": [saved_node(), note], "links": []} | inside))
    saved_graphs.update_slots({"MDiT_CropFace": NODE}, tmp_path)
    graph = json.loads(file.read_text())
    for node in (graph["nodes"][0], graph["definitions"]["subgraphs"][0]["nodes"][0]):
        assert node["inputs"][2:] == [
            {"name": "mask", "type": "MASK", "link": None, "shape": 7},
            {"name": "units", "type": "COMBO", "link": None, "shape": 7, "widget": {"name": "units"}}]
        assert node["widgets_values"] == [512, "auto"]
        assert node["outputs"][1:] == [{"name": "report", "type": "STRING", "links": None}]
    before = file.read_bytes()
    saved_graphs.update_slots({"MDiT_CropFace": NODE}, tmp_path)
    assert file.read_bytes() == before


def test_slots_take_the_types_that_they_have_now(tmp_path):
    (tmp_path / "example_workflows").mkdir()
    file = tmp_path / "example_workflows" / "one.json"
    old = saved_node()
    old["inputs"][0]["type"], old["outputs"][0]["type"] = "PICTURE", "LABEL"
    old["inputs"].append({"name": "more", "type": "*", "link": None})
    file.write_text(json.dumps({"nodes": [old], "links": []}))
    saved_graphs.update_slots({"MDiT_CropFace": NODE}, tmp_path)
    (node,) = json.loads(file.read_text())["nodes"]
    assert [slot["type"] for slot in node["inputs"]] == ["IMAGE", "INT", "*", "MASK", "COMBO"]
    assert node["inputs"][0]["link"] == 1 and node["outputs"][0] == {"name": "faces", "type": "IMAGE", "links": [3]}


def test_links_and_sockets_of_subgraphs_take_the_types_of_their_slots(tmp_path):
    """The types in the saved graph, BEFORE, are of an older schema throughout."""
    (tmp_path / "subgraphs").mkdir()
    file = tmp_path / "subgraphs" / "one.json"
    outside = [{"id": 1, "type": "blueprint", "inputs": [{"name": "picture", "type": "BEFORE", "link": None}],
                "outputs": [{"name": "cut", "type": "BEFORE", "links": [1]}]},
               {"id": 2, "type": "PreviewImage", "outputs": [],
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}]
    boundary = {"inputs": [{"name": "picture", "type": "BEFORE", "linkIds": [1]}],
                "outputs": [{"name": "cut", "type": "BEFORE", "linkIds": [2]},
                            {"name": "bare", "type": "*", "linkIds": []}]}
    links = [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "BEFORE"},
             {"id": 2, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "BEFORE"}]
    subgraph = {"id": "blueprint", "nodes": [saved_node() | {"id": 5}], "links": links, **boundary}
    file.write_text(json.dumps({"nodes": outside, "links": [[1, 1, 0, 2, 0, "BEFORE"]],
                                "definitions": {"subgraphs": [subgraph]}}))
    saved_graphs.update_slots({"MDiT_CropFace": NODE}, tmp_path)
    graph = json.loads(file.read_text())
    (inside,) = graph["definitions"]["subgraphs"]
    assert "BEFORE" not in file.read_text()
    for part in (inside, graph["nodes"][0]):
        assert part["inputs"][0]["type"] == part["outputs"][0]["type"] == "IMAGE"
    assert [link["type"] for link in inside["links"]] == ["IMAGE", "IMAGE"] and graph["links"][0][5] == "IMAGE"


def test_slots_that_match_what_is_connected_stay_of_any_type(tmp_path):
    """The link keeps the type of what it carries."""
    (tmp_path / "example_workflows").mkdir()
    file = tmp_path / "example_workflows" / "one.json"
    switch = {"id": 1, "type": "Switch", "inputs": [{"name": "on_true", "type": "*", "link": 1}], "widgets_values": [],
              "outputs": [{"name": "output", "type": "*", "links": [2]}]}
    links = [[1, 2, 0, 1, 0, "IMAGE"], [2, 1, 0, 3, 0, "IMAGE"]]
    nodes = [switch, {"id": 2, "type": "Note", "inputs": [], "outputs": [{"type": "IMAGE"}]}]
    file.write_text(json.dumps({"nodes": nodes, "links": links}))
    matching = saved_graphs.MATCHING
    saved_graphs.update_slots({"Switch": {"input": {"required": {"on_true": (matching, {})}}, "output": [matching],
                                          "output_name": ["output"]}}, tmp_path)
    assert json.loads(file.read_text()) == {"nodes": nodes, "links": links}


def test_templates_and_blueprints_lack_nothing(root, tmp_path):
    for folder in saved_graphs.FOLDERS:
        shutil.copytree(root / folder, tmp_path / folder)
    saved_graphs.update_slots(read_pack(), tmp_path)
    outdated = [path.name for path in root.glob("*/*.json") if path.parent.name in saved_graphs.FOLDERS
                and path.read_bytes() != (tmp_path / path.relative_to(root)).read_bytes()]
    assert outdated == [], "python dev.py renew completes them"
