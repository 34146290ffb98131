"""Control maps of label maps, over HTTP."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mditface.tests.e2e.graphs import node

FACE = {"map": node("MDiT_ExampleLabelMap", face="man")}
SETTINGS = {"style": "soft", "gap": 0.1, "palette": "colours", "order": "CelebAMask-HQ"}


def build(**nodes):
    """A graph that shows all control maps of the node `map`."""
    return {
        "build": node("MDiT_ControlMaps", label_map=["map", 0], **SETTINGS),
        "white": node("MaskToImage", mask=["build", 3]), "head": node("PreviewImage", images=["white", 0]),
        **{name: node("PreviewImage", images=["build", i]) for i, name in enumerate(("depth", "normals", "lines"))},
        **nodes}


@pytest.fixture
def healthy(label_map_file):
    graph = build(map=node("LoadImage", image=label_map_file("good", 64, 64)))
    return {name: graph[name] for name in ("map", "build", "depth")}


def show(server, entry, name) -> np.ndarray:
    return np.asarray(server.picture(entry["outputs"][name]["images"][0]).convert("RGB"))


def test_a_label_map_becomes_control_maps(server, artefacts):
    entry = server.run(build(**FACE, face=node("PreviewImage", images=["map", 0])))
    face, depth, normals, lines, head = (show(server, entry, name)
                                         for name in ("face", "depth", "normals", "lines", "head"))
    assert np.array_equal(face.any(-1), depth.any(-1))
    assert depth[300, 256].min() > depth[480, 256].max() > 0  # the nose lies before the clothes
    assert (normals[~face.any(-1)] == normals[0, 0]).all() and normals[0, 0, 2] == 255
    assert lines.max() == 255 and lines[0, 0].max() == 0
    assert head[300, 256].min() == 255 and head[500, 256].max() == 0
    Image.fromarray(np.concatenate([face, depth, normals, lines, head], axis=1)).save(artefacts / "control-maps.png")


def test_a_photograph_is_refused(server, tmp_path, refused):
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path = Path(tmp_path, "noise.png")
    Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC).save(path)
    refused(build(map=node("LoadImage", image=server.upload(path))), "build", "label_map: ",
            "'Parse Face' before this node")


def test_background_alone_is_refused(refused):
    empty = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    refused(build(map=empty), "build", "label_map: ", "background alone")
