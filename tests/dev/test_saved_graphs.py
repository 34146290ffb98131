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
    return {"type": "MDiT_CropFace", "widgets_values": [512],
            "outputs": [{"name": "faces", "type": "IMAGE", "links": [3]}],
            "inputs": [{"name": "image", "type": "IMAGE", "link": 1}, {"name": "size", "type": "INT", "link": None}]}


def test_new_slots_stand_behind_the_saved_ones_with_their_defaults(tmp_path):
    (tmp_path / "example_workflows").mkdir()
    (tmp_path / "subgraphs").mkdir()
    file = tmp_path / "subgraphs" / "one.json"
    inside = {"definitions": {"subgraphs": [{"nodes": [saved_node()]}]}}
    file.write_text(json.dumps({"nodes": [saved_node(), {"type": "MarkdownNote"}]} | inside))
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
    file.write_text(json.dumps({"nodes": [old]}))
    saved_graphs.update_slots({"MDiT_CropFace": NODE}, tmp_path)
    (node,) = json.loads(file.read_text())["nodes"]
    assert [slot["type"] for slot in node["inputs"]] == ["IMAGE", "INT", "*", "MASK", "COMBO"]
    assert node["inputs"][0]["link"] == 1 and node["outputs"][0] == {"name": "faces", "type": "IMAGE", "links": [3]}


def test_templates_and_blueprints_lack_nothing(root, tmp_path):
    for folder in saved_graphs.FOLDERS:
        shutil.copytree(root / folder, tmp_path / folder)
    saved_graphs.update_slots(read_pack(), tmp_path)
    outdated = [path.name for path in root.glob("*/*.json") if path.parent.name in saved_graphs.FOLDERS
                and path.read_bytes() != (tmp_path / path.relative_to(root)).read_bytes()]
    assert outdated == [], "python dev.py renew completes them"
