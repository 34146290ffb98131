"""The helper that the other end-to-end tests stand on."""
import pytest

from devtools.server import NodeError

RED = {"width": 24, "height": 16, "batch_size": 1, "color": 0xCC0000}
PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": RED},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def changed(node_id: str, **inputs) -> dict:
    """PICTURE with other inputs of one node."""
    node = PICTURE[node_id]
    return {**PICTURE, node_id: {**node, "inputs": {**node["inputs"], **inputs}}}


def test_a_graph_runs(server):
    picture = server.image(server.run(PICTURE))
    assert picture.size == (24, 16)
    assert picture.getpixel((0, 0)) == (0xCC, 0, 0)


def test_events_arrive_in_order(server):
    kinds = []
    server.watch(PICTURE, lambda kind, _: kinds.append(kind))
    assert kinds.index("execution_start") < kinds.index("execution_success")


def test_a_refused_graph_names_the_node(server):
    with pytest.raises(NodeError, match="smaller than min") as caught:
        server.run(changed("1", width=0))
    assert caught.value.node_id == "1"
    server.run(PICTURE)


def test_a_failing_node_is_named(server, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    load = {"class_type": "LoadImage", "inputs": {"image": server.upload(broken)}}
    with pytest.raises(NodeError, match="cannot identify image") as caught:
        server.run({"1": load, "2": PICTURE["2"]})
    assert caught.value.node_id == "1"
    server.run(PICTURE)
