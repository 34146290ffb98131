"""The host lists every node of the pack, and each says what it is for."""
import pytest

from devtools import node_info


EDITORS = ("MDIT_LABEL_MAP", "MDIT_LAYOUT")  # a tooltip would cover their drawing


@pytest.fixture(scope="module")
def ours(server) -> dict:
    return node_info.own(server.object_info())


def test_every_node_is_there(ours):
    assert ours.keys() == node_info.read_pack().keys()
    assert all(name.startswith("MDiT_") for name in ours)


def test_every_node_has_a_description(ours):
    assert [name for name, node in ours.items() if not node["description"]] == []


def test_every_input_but_an_editor_has_a_tooltip(ours):
    bare = [
        f"{name}.{key}"
        for name, node in ours.items()
        for group in ("required", "optional")
        for key, value in node["input"].get(group, {}).items()
        if len(value) < 2 or bool(value[1].get("tooltip")) == (value[1].get("widgetType") in EDITORS)
    ]
    assert bare == []


def test_every_output_has_a_tooltip(ours):
    bare = [
        f"{name}.{output}"
        for name, node in ours.items()
        for output, tooltip in zip(node["output_name"], node["output_tooltips"])
        if not tooltip
    ]
    assert bare == []
