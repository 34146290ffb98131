"""What the pack tells about itself: signatures, texts in each language, help pages, templates and blueprints.

After a change of the nodes run `python dev.py renew`.
"""
import json
import re

import pytest

from devtools import help_pictures, node_info, renew, texts
from mditface.tests.e2e.test_templates import TEMPLATES

ROOT = node_info.ROOT
LANGUAGES = (texts.SOURCE, *texts.TRANSLATIONS)


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.object_info()


@pytest.fixture(scope="module")
def nodes(info) -> dict:
    return node_info.own(info)


def test_signatures_are_those_of_the_snapshot(nodes):
    assert renew.differences(json.loads(renew.SNAPSHOT.read_text()), renew.make_snapshot(nodes)) == {}


def test_a_changed_signature_needs_a_line_in_the_changelog():
    info = {"MDiT_One": {"display_name": "Load One"}}
    log = "# Changelog\n\n## Unreleased\n\n* Node *Load\n  One*.\n\n## 0.1.0\n\nLoad Two"
    assert renew.list_unmentioned(["MDiT_One"], info, log) == []
    assert renew.list_unmentioned(["MDiT_Two", "MDiT_One"], {**info, "MDiT_Two": {"display_name": "Load Two"}},
                             log) == ["Load Two"]


def test_order_and_type_of_inputs_matter():
    def signature(*names):
        inputs = {name: ["INT", {}] for name in names}
        return renew.make_snapshot({"MDiT_A": {"python_module": "custom_nodes.mditface", "input": {"required": inputs},
                                          "output": [], "output_name": []}})
    assert renew.differences(signature("a", "b"), signature("a", "b")) == {}
    assert renew.differences(signature("a", "b"), signature("b", "a")).keys() == {"MDiT_A"}
    assert renew.differences(signature("a"), {}).keys() == {"MDiT_A"}


def test_every_node_input_and_output_is_described(nodes):
    for name, node in nodes.items():
        assert node["description"] and node["search_aliases"] and node["category"].startswith("MDiTFace"), name
        silent = [slot.name for slot in node_info.list_input_slots(node) if not slot.tooltip]
        silent += [slot for slot, tip in zip(node["output_name"], node["output_tooltips"]) if not tip]
        assert silent == [], name


def test_the_server_hands_out_every_help_page(nodes, server):
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == nodes.keys()
    for name in nodes:
        page = server.session.get(f"{server.url}/extensions/mditface/docs/{name}.md", timeout=60)
        assert page.ok and page.text.startswith(f"# {nodes[name]['display_name']}\n"), name
        assert server.session.get(f"{server.url}/extensions/mditface/docs/{name}/zh.md", timeout=60).ok, name


def test_every_help_page_ends_with_a_minimal_graph(nodes, info):
    """A chain of nodes in words, and a picture that holds the graph in which they are so connected."""
    titles = {name: node["display_name"] or name for name, node in info.items()}
    docs = ROOT / "web" / "docs"
    for name in nodes:
        page = (docs / f"{name}.md").read_text("utf-8")
        words = page.partition("\n## Minimal graph\n\n")[2]
        assert words.endswith(f"]({name}.png)\n"), name
        assert all((docs / file).is_file() for file in re.findall(r"!\[.*?\]\((.*?)\)", page)), name
        graph = help_pictures.read_graph(docs / f"{name}.png")
        kinds = {node["id"]: node["type"] for node in graph["nodes"]}
        links = {(titles[kinds[link[1]]], titles[kinds[link[3]]]) for link in graph["links"]}
        chain = re.findall(r"`([^`]+)`(?: -> )?", re.match(r"(?:`[^`]+` -> )+`[^`]+`", words)[0])
        assert titles[name] in words and name in kinds.values(), name
        assert set(zip(chain, chain[1:])) <= links, name
        assert set(kinds.values()) <= info.keys(), name


def test_english_texts_are_those_of_the_nodes(info):
    files = texts.locale(texts.SOURCE)
    assert files["nodeDefs"] == texts.make_node_texts(info)
    assert files["main"] | texts.main_texts(info) == files["main"]


@pytest.mark.parametrize("language", texts.TRANSLATIONS)
def test_no_text_is_missing_or_stale(language):
    assert texts.list_untranslated(language) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_signs_that_the_front_end_would_read_are_quoted(language):
    found = texts.flat(texts.locale(language))
    messages = {key: re.sub(r"{'.'}", "", text) for key, text in found.items() if not key.endswith(".tooltip")}
    assert {key: text for key, text in messages.items() if set(text) & set("{}@|")} == {}


def test_the_server_hands_out_every_language(server):
    served = server.get("/i18n")
    for language in LANGUAGES:
        files = texts.locale(language)
        assert served[language] == files.pop("main") | files


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_server_offers_every_template(name, server):
    assert name in server.get("/workflow_templates")["mditface"]


def test_pages_can_be_checked_without_a_server(nodes):
    """tests/dev/test_pages.py reads the nodes from the pack in its own process: they are those that the server has."""
    described = node_info.read_pack()
    assert described.keys() == nodes.keys()
    assert texts.make_node_texts(described) == texts.make_node_texts(nodes)
