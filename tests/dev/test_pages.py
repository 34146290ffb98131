"""Every node has its pages, picture, translation and template; every template its thumbnail and twin.

`python dev.py renew` writes what follows from the nodes and names what is missing.
"""
import json
import shutil

import pytest
from PIL import Image

from devtools import missing, node_info, node_list, texts, thumbnails


@pytest.fixture(scope="module")
def nodes() -> dict:
    return node_info.read_pack()


@pytest.mark.parametrize("find", missing.OF_NODES, ids=lambda find: find.__name__)
def test_no_node_lacks(find, root, nodes):
    lines = find(root, nodes)
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("find", missing.OF_TEMPLATES, ids=lambda find: find.__name__)
def test_no_template_lacks(find, root):
    lines = find(root)
    assert not lines, "\n".join(lines)


def test_pages_are_those_of_nodes(root, nodes):
    docs = root / "web" / "docs"
    assert {path.stem for path in docs.glob("*.md")} <= nodes.keys()
    assert {path.parent.name for path in docs.glob("*/*.md")} <= nodes.keys()


def test_pages_begin_with_the_title(root, nodes):
    """The English page with the node's title, the Chinese page with the translated one."""
    chinese = texts.locale("zh", root)["nodeDefs"]
    wrong = []
    for name in nodes.keys() & chinese.keys():  # test_no_node_lacks names the others
        titles = nodes[name]["display_name"], chinese[name]["display_name"]
        for page, title in zip((f"{name}.md", f"{name}/zh.md"), titles):
            file = root / "web" / "docs" / page
            if file.is_file() and not file.read_text("utf-8").startswith(f"# {title}\n"):
                wrong.append(page)
    assert wrong == []


def test_pages_end_with_the_picture_of_their_graph(root, nodes):
    wrong = [page for name in nodes for page in (f"{name}.md", f"{name}/zh.md")
             if (file := root / "web" / "docs" / page).is_file()
             and not file.read_text("utf-8").endswith(f"]({name}.png)\n")]
    assert wrong == []


def test_the_list_of_nodes_is_current(nodes):
    assert node_list.PAGE.read_text("utf-8") == node_list.page(nodes)


def test_every_category_is_a_group(nodes):
    assert {node_list.find_group(node) for node in nodes.values()} == set(node_list.GROUPS)


@pytest.mark.parametrize("heading, anchor", [
    ("Start here", "start-here"), ("PT-DiT", "pt-dit"), ("Adapters (FLUX, SD3)", "adapters-flux-sd3")])
def test_headings_are_linked_as_github_links_them(heading, anchor):
    assert node_list.find_anchor(heading) == anchor


def test_thumbnails_are_current():
    assert thumbnails.list_outdated() == []


# What the checks notice


@pytest.fixture
def tree(root, tmp_path, nodes):
    """A copy of the pages, translations and templates, in which nothing is missing."""
    if missing.list_everything(root, nodes):
        pytest.skip("mend test_no_node_lacks and test_no_template_lacks first")
    for folder in ("locales", "example_workflows"):
        shutil.copytree(root / folder, tmp_path / folder)
    for name in nodes:
        page = tmp_path / "web" / "docs" / name / "zh.md"
        page.parent.mkdir(parents=True)
        page.touch()
        for kind in ("md", "png"):
            (tmp_path / "web" / "docs" / f"{name}.{kind}").touch()
    complete = {"nodeDefs": texts.make_node_texts(nodes)}
    (tmp_path / "locales" / "zh" / "nodeDefs.json").write_text(json.dumps(complete["nodeDefs"]))
    assert missing.list_everything(tmp_path, nodes) == []
    return tmp_path


@pytest.mark.parametrize("file, line", [
    ("web/docs/MDiT_Sampler.md", "MDiT_Sampler has no help page: web/docs/MDiT_Sampler.md"),
    ("web/docs/MDiT_Sampler/zh.md", "MDiT_Sampler has no Chinese help page: web/docs/MDiT_Sampler/zh.md"),
    ("web/docs/MDiT_Sampler.png", "MDiT_Sampler has no picture of its minimal graph: web/docs/MDiT_Sampler.png"),
    ("example_workflows/7 Train an adapter.jpg",
     "template 7 Train an adapter has no thumbnail: example_workflows/7 Train an adapter.jpg"),
    ("example_workflows/api/7 Train an adapter.json",
     "template 7 Train an adapter has no graph in API form: example_workflows/api/7 Train an adapter.json"),
])
def test_a_missing_file_is_named(tree, nodes, file, line):
    (tree / file).unlink()
    assert missing.list_everything(tree, nodes) == [line]


def test_a_node_without_a_template_is_named(tree, nodes):
    for suffix in ("json", "jpg"):
        (tree / "example_workflows" / f"7 Train an adapter.{suffix}").unlink()
    assert missing.list_everything(tree, nodes) == ["MDiT_TrainAdapter stands in no template: example_workflows/*.json"]


def test_a_missing_translation_is_named(tree, nodes):
    file = tree / "locales" / "zh" / "nodeDefs.json"
    translation = json.loads(file.read_text())
    translation["MDiT_Sampler"]["inputs"]["cfg"]["tooltip"] = ""
    file.write_text(json.dumps(translation))
    (line,) = missing.list_everything(tree, nodes)
    assert line.startswith("zh lacks nodeDefs.MDiT_Sampler.inputs.cfg.tooltip: ")


# Thumbnails


def test_a_thumbnail_is_drawn_again_when_its_graph_changes(tmp_path):
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    twin = tmp_path / "api" / "one.json"
    twin.parent.mkdir()
    twin.write_text(json.dumps(graph))
    assert thumbnails.list_outdated(tmp_path) == ["one"]
    thumbnails.save_thumbnail(Image.new("RGB", (600, 500)), graph, tmp_path / "one.jpg")
    assert Image.open(tmp_path / "one.jpg").size == (thumbnails.SIDE, thumbnails.SIDE)
    assert thumbnails.list_outdated(tmp_path) == []
    graph["1"]["inputs"]["width"] = 16
    twin.write_text(json.dumps(graph))
    assert thumbnails.list_outdated(tmp_path) == ["one"]


def test_a_thumbnail_made_by_hand_stays(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "one.json").write_text("{}")
    Image.new("RGB", (400, 400)).save(tmp_path / "one.jpg")
    assert thumbnails.list_outdated(tmp_path) == []


def test_the_same_image_makes_the_same_thumbnail(tmp_path):
    for name in ("a", "b"):
        thumbnails.save_thumbnail(Image.radial_gradient("L"), {}, tmp_path / f"{name}.jpg")
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()
