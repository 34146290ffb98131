"""The host lists every node of the pack, and each says what it is for."""
import pytest

IDS = {
    "MDiT_LoadModel", "MDiT_MaskTokenizer", "MDiT_TextConditioning", "MDiT_ApplyMask", "MDiT_Sampler",
    "MDiT_DualGuider", "MDiT_LabelMapFromMasks", "MDiT_LabelMapToMasks", "MDiT_EditLabelMap", "MDiT_LoadAdapter",
    "MDiT_ApplyAdapter", "MDiT_TrainAdapter",
}


@pytest.fixture(scope="module")
def ours(server) -> dict:
    return {name: node for name, node in server.object_info().items() if name.startswith("MDiT_")}


def test_every_node_is_there(ours):
    assert IDS <= ours.keys()


def test_every_node_has_a_description(ours):
    assert [name for name, node in ours.items() if not node["description"]] == []


def test_every_input_has_a_tooltip(ours):
    bare = [
        f"{name}.{key}"
        for name, node in ours.items()
        for group in ("required", "optional")
        for key, value in node["input"].get(group, {}).items()
        if len(value) < 2 or not value[1].get("tooltip")
    ]
    assert bare == []


def test_every_output_has_a_tooltip(ours):
    bare = [
        f"{name}.{output}"
        for name, node in ours.items()
        for place, output in enumerate(node["output_name"])
        if not node["output_tooltips"][place]
    ]
    assert bare == []
