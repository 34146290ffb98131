"""dev.py new-node writes the skeletons of a node whose schema exists, and overwrites nothing."""
import ast
import json
import shutil

import pytest

from devtools import missing, new_node, node_info, texts

NODE = {
    "name": "MDiT_TurnFace", "class_name": "TurnFace", "file": "pt_dit", "display_name": "Turn Face",
    "python_module": node_info.MODULE, "category": "MDiTFace", "description": "Turns a face.",
    "input": {"required": {"image": ["IMAGE", {"tooltip": "Face to turn."}],
                           "angle": ["FLOAT", {"tooltip": "Angle in degrees | left.", "default": 15.0}]}},
    "output": ["IMAGE"], "output_name": ["image"], "output_tooltips": ["Turned face."],
}
FILES = ("web/docs/MDiT_TurnFace.md", "web/docs/MDiT_TurnFace/zh.md", "tests/pt_dit/test_turn_face.py")
SYSTEM = "docs/systems/pt-dit.md"
TABLE = "# PT-DiT\n\n| Node | What it does | Limits |\n| --- | --- | --- |\n| *Old* | old | none |\n\nMore.\n"


@pytest.fixture(scope="module")
def nodes() -> dict:
    return node_info.read_pack() | {NODE["name"]: NODE}


@pytest.fixture
def tree(root, tmp_path):
    """A copy of what a new node changes."""
    for folder in ("locales", "example_workflows", "web/docs"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copy(root / "CHANGELOG.md", tmp_path)
    (tmp_path / SYSTEM).parent.mkdir(parents=True)
    (tmp_path / SYSTEM).write_text(TABLE)
    return tmp_path


def content(folder) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_skeletons(tree, nodes):
    before = missing.list_everything(tree, nodes)
    written = new_node.write_node(tree, NODE, nodes)
    assert {path.as_posix() for path in written} == {*FILES, "locales/zh/nodeDefs.json", "CHANGELOG.md", SYSTEM}
    page, chinese, test = ((tree / file).read_text("utf-8") for file in FILES)
    assert page.startswith("# Turn Face\n\nTurns a face.\n\n| Input | Meaning |\n")
    assert "\n| `image` | Face to turn. |\n| `angle` | Angle in degrees \\| left. |\n" in page
    assert "\n| Output | Meaning |\n| --- | --- |\n| `image` | Turned face. |\n" in page
    assert page.partition("\n## Minimal graph\n\n")[2].startswith("`Load Image` -> `Turn Face` -> `Preview Image`. ")
    assert page.endswith("](MDiT_TurnFace.png)\n") and chinese.endswith("](MDiT_TurnFace.png)\n")
    assert "\n| `angle` | |\n" in chinese
    ast.parse(test)
    assert "from mditface.nodes.pt_dit import TurnFace\n" in test
    assert "MDiT_TurnFace has no help page: web/docs/MDiT_TurnFace.md" in before
    assert [line for line in missing.list_everything(tree, nodes) if "help page" in line and "TurnFace" in line] == []


def test_translation_changelog_and_table(tree, nodes, root):
    new_node.write_node(tree, NODE, nodes)
    old, new = (texts.locale("zh", folder)["nodeDefs"] for folder in (root, tree))
    entry = new.pop("MDiT_TurnFace")
    assert new == old
    source = texts.make_node_texts({NODE["name"]: NODE})["MDiT_TurnFace"]
    assert texts.flat(entry) == dict.fromkeys(texts.flat(source), "")
    log = (tree / "CHANGELOG.md").read_text("utf-8")
    assert log.replace("* *Turn Face*: Turns a face.\n", "") == (root / "CHANGELOG.md").read_text("utf-8")
    assert "*Turn Face*" in log.split("\n## ")[1]
    row = "| *Turn Face* | Turns a face. | |\n"
    assert (tree / SYSTEM).read_text() == TABLE.replace("none |\n", "none |\n" + row)


SECTION = "# Changelog\n\n## Unreleased\n\n{}## 0.1.0\n\n**Added**\n\n* *Old*\n"
LINE = "* *Turn Face*: Turns a face.\n"


@pytest.mark.parametrize("newest, expected", [
    ("**Added**\n\n* one\n  and more\n\n**Fixed**\n\n* two\n\n",
     f"**Added**\n\n* one\n  and more\n{LINE}\n**Fixed**\n\n* two\n\n"),
    ("**Added**\n\n* one\n\n", f"**Added**\n\n* one\n{LINE}\n"),
    ("**Fixed**\n\n* two\n\n", f"**Fixed**\n\n* two\n\n**Added**\n\n{LINE}\n"),
], ids=["before another heading", "at the end", "without the heading"])
def test_the_changelog_names_the_node_under_added(tmp_path, newest, expected):
    (tmp_path / "CHANGELOG.md").write_text(SECTION.format(newest))
    (text,) = new_node.list_node(tmp_path, NODE).values()
    assert text == SECTION.format(expected)


def test_every_file_of_nodes_has_a_page_of_its_system(root, nodes):
    pages = {new_node.system_page(root, node) for node in nodes.values()}
    assert [page for page in pages if not page.is_file()] == []


def test_a_page_without_a_table_of_nodes_is_left(tree, nodes):
    page = tree / "docs" / "systems" / "label-maps.md"
    page.write_text("# Label maps\n")
    node = NODE | {"file": "painter"}
    assert page == new_node.system_page(tree, node) and new_node.node_table(page) is None
    assert page not in new_node.list_node(tree, node)


def test_a_node_without_inputs_or_outputs_has_no_empty_table(tree, nodes):
    bare = NODE | {"input": {}, "output": [], "output_name": [], "output_tooltips": []}
    new_node.write_node(tree, bare, nodes)
    for file in FILES[:2]:
        assert "| ---" not in (tree / file).read_text("utf-8")


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_overwritten(tree, nodes, file):
    (tree / file).parent.mkdir(parents=True, exist_ok=True)
    (tree / file).write_text("mine")
    before = content(tree)
    with pytest.raises(new_node.Refused, match=f"{file} exists already"):
        new_node.write_node(tree, NODE, nodes)
    assert content(tree) == before


def test_a_translation_is_not_overwritten(tree, nodes):
    file = tree / "locales" / "zh" / "nodeDefs.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"MDiT_TurnFace": {}}))
    before = content(tree)
    with pytest.raises(new_node.Refused, match="nodeDefs.json has an entry MDiT_TurnFace already"):
        new_node.write_node(tree, NODE, nodes)
    assert content(tree) == before


def test_every_file_of_nodes_has_a_folder_of_tests(root, nodes):
    folders = {new_node.TEST_FOLDERS.get(node["file"], node["file"]) for node in nodes.values()}
    assert [folder for folder in folders if not (root / "tests" / folder).is_dir()] == []


def test_a_node_without_a_schema_is_refused(nodes):
    with pytest.raises(new_node.Refused, match=r"no node MDiT_Nothing: write its schema in nodes/pt_dit\.py and "
                       "name the class in NODES at the end of that file"):
        new_node.find_node(nodes, "MDiT_Nothing", "pt_dit")
    with pytest.raises(new_node.Refused, match=r"stands in nodes/pt_dit\.py, not in nodes/dynast\.py"):
        new_node.find_node(nodes, "MDiT_TurnFace", "dynast")
    assert new_node.find_node(nodes, "MDiT_TurnFace", "pt_dit") is NODE
    assert new_node.find_node(nodes, "MDiT_TurnFace") is NODE
