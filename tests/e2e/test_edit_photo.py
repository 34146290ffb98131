"""The template that edits a photograph by painting, on tiny models of the host's own classes."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import encode_drawing, find_class, to_indices
from mditface.nodes.painter import first_drawing
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import node, text_of

TWIN = Path(__file__).parents[2] / "example_workflows" / "api" / "3 Photo, change the hair.json"
SIDE = 256  # of the cropped face in pixels
HAIR = find_class("hair")


class Template:
    """The graph, its nodes by their class, and further nodes that show what is in between."""

    def __init__(self, photo: str):
        self.graph = stand_ins.runnable(json.loads(TWIN.read_text()))
        self.of("LoadImage")["image"] = photo
        self.graph["map"] = node("PreviewImage", images=[self.key("MDiT_ParseFace"), 0])

    def show_region(self) -> None:
        """Adds the pixels of the photograph that 'Paste Face' touches, and those that it replaces."""
        crop, change, photo = map(self.key, ("MDiT_CropFace", "MDiT_ChangedRegion", "LoadImage"))
        self.graph |= {
            "white": node("EmptyImage", width=SIDE, height=SIDE, batch_size=1, color=0xFFFFFF),
            "size": node("GetImageSize", image=[photo, 0]),
            "black": node("EmptyImage", width=["size", 0], height=["size", 1], batch_size=1, color=0),
            "place": node("MDiT_PasteFace", image=["black", 0], faces=["white", 0], regions=[crop, 1], feather=0.0,
                          label_map=False, mask=[change, 0]),
            "share": node("ImageToMask", image=["place", 0], channel="red"),
        }
        for name, least in (("touched", 0.0), ("replaced", 0.99)):
            self.graph |= {
                f"{name} mask": node("ThresholdMask", mask=["share", 0], value=least),
                f"{name} image": node("MaskToImage", mask=[f"{name} mask", 0]),
                name: node("PreviewImage", images=[f"{name} image", 0]),
            }

    def key(self, class_type: str) -> str:
        (key,) = (key for key, one in self.graph.items() if one["class_type"] == class_type)
        return key

    def of(self, class_type: str) -> dict:
        """The inputs of the only node of a class."""
        return self.graph[self.key(class_type)]["inputs"]

    def paint(self, labels: np.ndarray) -> None:
        self.of("MDiT_PaintLabelMap")["drawing"] = encode_drawing(torch.from_numpy(labels))


class Result:
    """What a run of the template saved and told, and which of its nodes ran."""

    def __init__(self, server, template: Template):
        self.server = server
        self.ran = set()
        server.free()
        self.entry = server.watch(template.graph, self.listen)
        self.image = self.read(template.key("SaveImage"))
        self.report = "\n".join(text_of(self.entry, key) for key, one in template.graph.items()
                                if one["class_type"] == "PreviewAny")

    def listen(self, kind, data):
        if kind == "executing" and data["node"]:
            self.ran.add(data["node"])

    def read(self, key: str) -> np.ndarray:
        return np.asarray(self.server.picture(self.entry["outputs"][key]["images"][0]).convert("RGB"))

    def read_labels(self) -> np.ndarray:
        """The label map of the cropped face."""
        return to_indices(torch.from_numpy(self.read("map") / 255.0)[None])[0].numpy()


@pytest.fixture(scope="module")
def photo(server, tiny_models, tmp_path_factory) -> tuple[str, np.ndarray]:
    """A picture of another shape than the face's square: its name and its pixels."""
    image = stand_ins.noise().crop((0, 0, 512, 448))
    path = tmp_path_factory.mktemp("photo") / "photograph to edit.png"
    image.save(path)
    return server.upload(path), np.asarray(image)


@pytest.fixture(scope="module")
def untouched(server, photo) -> Result:
    """The first run, before anything is painted."""
    return Result(server, Template(photo[0]))


@pytest.fixture(scope="module")
def repainted(untouched) -> np.ndarray:
    """The label map of the photograph with hair painted into its middle."""
    before = untouched.read_labels()
    labels = before.copy()
    labels[100:150, 90:170] = HAIR
    assert (labels != before).any()
    return labels


def test_before_anything_is_painted_the_photograph_comes_out_at_once(photo, untouched):
    template = Template(photo[0])
    assert np.array_equal(untouched.image, photo[1])
    assert "nothing changed" in untouched.report
    skipped = {template.key(name) for name in ("KSampler", "VAEDecode", "UNETLoader", "MDiT_PasteFace")}
    assert not untouched.ran & skipped and template.key("MDiT_ParseFace") in untouched.ran


def test_the_label_map_taken_over_unchanged_leaves_the_photograph(server, photo, untouched):
    template = Template(photo[0])
    template.paint(untouched.read_labels())
    found = Result(server, template)
    assert np.array_equal(found.image, photo[1])
    assert "nothing changed" in found.report and template.key("KSampler") not in found.ran


def test_only_the_repainted_region_is_drawn_anew(server, photo, repainted, artefacts):
    template = Template(photo[0])
    template.paint(repainted)
    template.show_region()
    found = Result(server, template)
    change = np.abs(found.image.astype(int) - photo[1]).max(axis=2)
    touched, replaced = (found.read(name)[..., 0] > 0 for name in ("touched", "replaced"))
    Image.fromarray(np.concatenate([photo[1], found.image], axis=1)).save(artefacts / "edited photograph.png")
    assert found.image.shape == photo[1].shape and 0.01 < replaced.mean() < touched.mean() < 0.5
    assert not change[~touched].any()
    assert (change[replaced] > 0).mean() > 0.9
    assert "hair" in found.report and template.key("KSampler") in found.ran


def test_control_map_and_seed_reach_the_region(server, photo, repainted):
    def draw(**changes) -> np.ndarray:
        template = Template(photo[0])
        template.paint(repainted)
        template.of("KSampler")["seed"] = changes.get("seed", 0)
        template.of("ControlNetApplyAdvanced")["strength"] = changes.get("strength", 0.6)
        return Result(server, template).image.astype(int)
    first = draw()
    assert np.array_equal(draw(), first)
    assert np.abs(draw(strength=0.0) - first).max() > 1
    assert np.abs(draw(seed=1) - first).max() > 1


def test_a_drawing_of_another_face_is_told_by_its_share(server, photo):
    """The label map was not taken over: the template face stands against the photograph's own."""
    template = Template(photo[0])
    template.of("MDiT_PaintLabelMap")["drawing"] = first_drawing()
    found = Result(server, template)
    share = float(found.report.partition("label map 1: ")[2].partition("%")[0])
    assert share > 30 and "after: 512 x 512 resized to 256 x 256" in found.report
