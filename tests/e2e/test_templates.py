"""The example graphs fit the nodes that the host lists, and their model links fit their loaders."""
import json
from pathlib import Path

import pytest

from devtools.saved_graphs import ANY, MATCHING, output_types

ROOT = Path(__file__).absolute().parents[2]
TEMPLATES = {path.stem: path for path in sorted((ROOT / "example_workflows").glob("*.json"))}
DYNAMIC = "COMFY_"  # how the types of inputs that bring further slots begin
WEIGHTS = (".safetensors", ".ckpt", ".pth", ".pt", ".gguf", ".bin")
BUNDLED = {"mditface-demo.safetensors", "face-parser.safetensors"}
APPS = ("1 Paint a face.app", "3 Photo, change the hair", "5 Scene, who does what", "5 Person after a pose")
WINDOW = (1920, 1080)  # pixels
MARGIN, TITLE = 10, 30  # around all nodes, and above each
NOTES, UPLOAD = ("MarkdownNote",), "IMAGEUPLOAD"  # known to the front end alone


@pytest.fixture(params=TEMPLATES)
def template(request) -> dict:
    return json.loads(TEMPLATES[request.param].read_text())


@pytest.fixture(scope="module")
def known(server) -> dict:
    return server.object_info()


def list_host_nodes(template: dict) -> list[dict]:
    """The nodes that the host knows: neither notes nor blueprints."""
    blueprints = {blueprint["id"] for blueprint in template.get("definitions", {}).get("subgraphs", ())}
    return [node for node in template["nodes"] if node["type"] not in (*NOTES, *blueprints)]


def host_inputs(info: dict) -> dict:
    """Type of each input, but for texts without a socket; a list of choices is a COMBO."""
    groups = info["input"].get("required", {}) | info["input"].get("optional", {})
    return {name: saved_type(declared[0]) for name, declared in groups.items()
            if not (declared[0] == "STRING" and declared[1].get("socketless"))}


def saved_type(declared: str | list) -> str:
    """The type of an input in a saved graph."""
    if isinstance(declared, list):
        return "COMBO"
    return ANY if declared == MATCHING else declared


def test_pictures_that_follow_the_drawing_are_not_cropped():
    cropped = [name for name, path in TEMPLATES.items() for node in json.loads(path.read_text())["nodes"]
               if node["type"] == "ImageScale" and node["widgets_values"][-1] != "disabled"]
    assert cropped == []


def test_nodes_and_slots_are_the_hosts(template, known):
    for node in list_host_nodes(template):
        info = known[node["type"]]
        slots = {slot["name"]: slot["type"] for slot in node["inputs"] if slot["type"] != UPLOAD}
        wanted = host_inputs(info)
        grown = {name for name in slots if name.partition(".")[0] in wanted and "." in name}
        growing = {name for name, kind in wanted.items() if kind.startswith(DYNAMIC) and name not in slots}
        assert {name: kind for name, kind in slots.items() if name not in grown} == {
            name: kind for name, kind in wanted.items() if name not in growing}, node["type"]
        outputs = [(slot["name"], slot["type"]) for slot in node["outputs"]]
        assert outputs == list(zip(info["output_name"], output_types(info))), node["type"]


def test_links_are_consistent(template):
    nodes = {node["id"]: node for node in template["nodes"]}
    assert len(nodes) == len(template["nodes"])
    assert max(nodes) <= template["last_node_id"]
    links = {link[0]: link for link in template["links"]}
    for number, source, output, target, slot, kind in template["links"]:
        start, end = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert number in start["links"] and end["link"] == number
        assert start["type"] in (kind, ANY) and (end["type"] == ANY or kind in end["type"].split(","))
    for node in template["nodes"]:
        assert {slot["link"] for slot in node.get("inputs", ()) if slot["link"] is not None} <= links.keys()
        assert {link for slot in node.get("outputs", ()) for link in slot["links"] or ()} <= links.keys()


def test_every_needed_input_is_connected(template, known):
    for node in list_host_nodes(template):
        filled = {slot["name"].partition(".")[0] for slot in node["inputs"]
                  if "widget" in slot or slot["link"] is not None}
        needed = known[node["type"]]["input"].get("required", {}).keys() & host_inputs(known[node["type"]]).keys()
        assert needed <= filled, node["type"]


def test_model_links_name_the_files_that_loaders_ask_for(template, server):
    folders = server.get("/models")
    for node in template["nodes"]:
        for model in node["properties"].get("models", ()):
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(f"/{model['name']}")
            assert model["directory"] in folders


def test_the_note_names_model_files_without_a_link(template):
    """But for those that come with the pack, and placeholders for a user's own."""
    notes = "".join(node["widgets_values"][0] for node in template["nodes"] if node["type"] in NOTES)
    for node in template["nodes"]:
        linked = {model["name"] for model in node["properties"].get("models", ())}
        named = {value for value in node.get("widgets_values") or () if str(value).endswith(WEIGHTS)}
        for file in named - linked - BUNDLED:
            assert f"`{file}`" in notes and "no direct link" in notes or file.startswith("your_"), file


def test_all_of_it_can_be_read_when_it_opens(template):
    """The front end fits a new template into three quarters of the window; below 60 % it draws no text."""
    nodes = template["nodes"]
    left, top = (min(node["pos"][axis] for node in nodes) for axis in (0, 1))
    right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in nodes) for axis in (0, 1))
    width = right - left + 2 * MARGIN
    height = bottom - top + TITLE + 2 * MARGIN
    assert 0.75 * min(WINDOW[0] / width, WINDOW[1] / height) >= 0.6


@pytest.mark.parametrize("name", APPS)
def test_apps_ask_for_inputs_and_show_outputs(name, known):
    graph = json.loads(TEMPLATES[name].read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    app = graph["extra"]["linearData"]
    for node_id, widget, *_ in app["inputs"]:
        node = nodes[node_id]
        free = {slot["name"] for slot in node["inputs"] if "widget" in slot and slot["link"] is None}
        declared = known.get(node["type"], {"input": {"required": {}}})["input"]["required"]  # blueprints are not known
        assert widget in free or widget in declared, (node["type"], widget)
    assert all(known[nodes[node_id]["type"]]["output_node"] for node_id in app["outputs"])


def test_the_starter_is_first():
    assert next(iter(TEMPLATES)) == "1 Paint a face.app"


def test_nodes_do_not_overlap(template):
    boxes = [(*node["pos"], node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
             for node in template["nodes"]]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1:]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
