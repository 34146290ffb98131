"""DynaST on the real host, with tiny generators in the published layout."""
import json

import numpy as np
import pytest
import torch

from mditface.tests.e2e.graphs import cancelled, inspect, node
from mditface.tests.dynast import tiny
from mditface.tests.dynast.test_labels import STANDING, frame

SIZE = 64


@pytest.fixture(scope="module")
def files(server):
    """A generator of faces, and one of persons, which is a pickled state dict as the published one."""
    folder = server.base / "models" / "dynast"
    (folder / "deepfashion").mkdir(parents=True, exist_ok=True)
    tiny.write(folder / "face.safetensors")
    tiny.write(folder / "deepfashion" / "latest_net_G.pth", tiny.PERSON)
    return {"face": "face.safetensors", "person": "deepfashion/latest_net_G.pth"}


def keypoints(**options) -> dict:
    return node("Probe_Keypoints", frames=json.dumps([frame(**options)]))


def face_label(map_name: str, **inputs) -> dict:
    return node("MDiT_FaceEdgeLabel", image=[map_name, 0], label_map=[map_name, 0], **{
        "palette": "colours", "order": "CelebAMask-HQ", "size": SIZE, **inputs})


def shown(source: str, output: int = 0) -> dict:
    return node("PreviewImage", images=[source, output])


def graph(weights_name, **nodes):
    """A person in the pose of one figure with the appearance of an image; `nodes` extend or replace the graph."""
    moved = [(256 - x, y) for x, y in STANDING]
    return {
        "model": node("MDiT_LoadDynaST", weights_name=weights_name),
        "keypoints": keypoints(), "exemplar_keypoints": keypoints(points=moved),
        "label": node("MDiT_PoseLabel", keypoints=["keypoints", 0], size=SIZE),
        "exemplar_label": node("MDiT_PoseLabel", keypoints=["exemplar_keypoints", 0], size=SIZE),
        "exemplar": node("MDiT_ExampleLabelMap", face="woman"),
        "run": node("MDiT_ExemplarSynthesis", model=["model", 0], label=["label", 0], exemplar=["exemplar", 0],
                    exemplar_label=["exemplar_label", 0]),
        "picture": shown("run"),
        **nodes,
    }


@pytest.fixture
def healthy(files):
    return graph(files["person"])


def pixels(server, entry, name) -> np.ndarray:
    return np.asarray(server.picture(entry["outputs"][name]["images"][0]).convert("RGB"))


def test_a_person_by_the_published_layout(server, files):
    entry = server.run(graph(files["person"], warped=shown("run", 1), drawn=shown("label", 1),
                             mask=node("MaskToImage", mask=["run", 2]), confidence=shown("mask")))
    with torch.inference_mode():
        from mditface.mdit.dynast import pose
        labels = [pose.from_keypoints([frame(points=points)], SIZE)
                  for points in (STANDING, [(256 - x, y) for x, y in STANDING])]
        from mditface.nodes.labelmap import ExampleLabelMap
        (exemplar,) = ExampleLabelMap.execute("woman").result
        expected = tiny.patched(tiny.PERSON).synthesize(labels[0], exemplar, labels[1])
    for name, values in (("picture", expected.image[0]), ("warped", expected.warped[0]),
                         ("confidence", expected.confidence[0, ..., None].expand(-1, -1, 3))):
        difference = np.abs(pixels(server, entry, name) - 255 * values.numpy())
        assert (difference < 1.01).mean() > 0.99, name
    drawn = labels[0].channels[0, :3].movedim(0, -1).numpy()
    assert np.array_equal(pixels(server, entry, "drawn"), drawn)
    assert "DynaST" in inspect(server)["loaded"]


def test_a_face(server, files):
    maps = {name: node("MDiT_ExampleLabelMap", face=name) for name in ("man", "woman")}
    entry = server.run(graph(files["face"], **maps, label=face_label("man"), exemplar_label=face_label("woman"),
                             edges=shown("label", 1)))
    assert pixels(server, entry, "picture").shape == (SIZE, SIZE, 3) and pixels(server, entry, "picture").std() > 1
    assert set(np.unique(pixels(server, entry, "edges"))) == {0, 255}


def with_face_label(nodes):
    return {"map": node("MDiT_ExampleLabelMap", face="man"), "label": face_label("map"), **nodes}


@pytest.mark.parametrize("nodes, at, parts", [
    (with_face_label({}), "run", ("label: this label has 15 channels, but the model reads 20", "'Build Pose Label'")),
    ({"map": node("EmptyImage", width=64, height=64, batch_size=1, color=0), "label": face_label("map")}, "label",
     ("label_map: label map 0 shows no face",)),
    ({"keypoints": keypoints(people=0)}, "label", ("keypoints: frame 0 shows 0 people",)),
    ({"label": node("MDiT_PoseLabel", keypoints=["keypoints", 0], size=20)}, "label",
     ("size: 20 pixels", "multiple of 8 and at least 16")),
    ({"label": node("MDiT_PoseLabel", keypoints=["keypoints", 0], size=128)}, "run",
     ("exemplar_label: its side is 64 pixels, that of the label is 128",)),
])
def test_refusals(refused, files, nodes, at, parts):
    refused(graph(files["person"], **nodes), at, *parts)


def test_a_size_below_the_smallest_level_is_refused(refused, files):
    refused(graph(files["person"], label=node("MDiT_PoseLabel", keypoints=["keypoints", 0], size=8)), "label", "size")


def test_a_file_that_is_no_generator_is_refused(refused, weights_file):
    refused(graph(weights_file("dynast", "lora", {"lora.up": torch.zeros(2)})), "model",
            "weights_name: ", "it is no generator of DynaST")


def test_a_long_run_is_cancelled_within_a_second(server, files):
    long = graph(files["person"], many=node("RepeatImageBatch", image=["exemplar", 0], amount=200))
    long["run"]["inputs"]["exemplar"] = ["many", 0]
    stopped, seconds = cancelled(server, long, lambda data: data["node"] == "run")
    assert stopped == "run" and seconds < 1
