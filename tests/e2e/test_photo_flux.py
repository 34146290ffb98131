"""Photographs of a painted face with FLUX.1 and FLUX.2: the templates on tiny models of the host's own classes."""
import json
from collections.abc import Callable

import numpy as np
import pytest

from mditface.mdit.labelmap import encode_drawing
from mditface.mdit.labelmap.drawing import decode_drawing
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import node
from mditface.tests.e2e.test_templates import TEMPLATES

NAMES = EASYCONTROL, KLEIN = ("4 Painted face to photo (FLUX, EasyControl)", "4 Painted face to photo (FLUX 2 Klein)")
SAMPLERS = {EASYCONTROL: ("MDiT_Sampler", "seed"), KLEIN: ("RandomNoise", "noise_seed")}


class Template:
    """A template in API form on tiny models."""

    def __init__(self, server, name: str):
        self.server = server
        self.name = name
        self.graph = stand_ins.runnable(json.loads((TEMPLATES[name].parent / "api" / f"{name}.json").read_text()))

    def of(self, class_type: str) -> list[dict]:
        """The inputs of all nodes of a class."""
        return [one["inputs"] for one in self.graph.values() if one["class_type"] == class_type]

    def run(self) -> dict:
        """What each output node gave, by its class."""
        entry = self.server.run(self.graph)
        return {self.graph[key]["class_type"]: found for key, found in entry["outputs"].items()}

    def draw(self) -> np.ndarray:
        (image,) = self.run()["SaveImage"]["images"]
        return np.asarray(self.server.picture(image)).astype(int)


@pytest.fixture
def make(server, tiny_models) -> Callable[[str], Template]:
    return lambda name: Template(server, name)


@pytest.mark.parametrize("name", NAMES)
def test_painting_and_seed_change_the_photograph(make, name):
    template = make(name)
    before = template.draw()
    assert np.ptp(before) > 0
    (paint,) = template.of("MDiT_PaintLabelMap")
    paint["drawing"] = encode_drawing(decode_drawing(paint["drawing"]).flip(0).contiguous())
    painted = template.draw()
    assert np.abs(painted - before).max() > 0  # the tiny networks see little of a picture, but never vary by themselves
    kind, seed = SAMPLERS[name]
    template.of(kind)[0][seed] = 1
    assert np.abs(template.draw() - painted).max() > 4


def test_the_depth_map_is_kept_for_another_seed(make):
    template = make(EASYCONTROL)
    (key,) = (key for key, one in template.graph.items() if one["class_type"] == "MDiT_Sampler")
    template.graph["told"] = node("PreviewAny", source=[key, 1])

    def report() -> str:
        return template.server.run(template.graph)["outputs"]["told"]["text"][0]
    template.server.free()
    assert "static passes 1" in report()
    template.of("MDiT_Sampler")[0]["seed"] = 5
    assert "static passes 0" in report()


def test_the_adapter_reads_the_depth_map(make):
    template = make(EASYCONTROL)
    before = template.draw()
    template.of("MDiT_ApplyMask")[0]["strength"] = 0.0
    assert np.abs(template.draw() - before).max() > 4


def test_klein_reads_the_bundled_models_face_as_its_reference(make):
    template = make(KLEIN)
    before = template.draw()
    template.of("MDiT_Sampler")[0]["seed"] = 1  # another face in the same layout
    assert np.abs(template.draw() - before).max() > 0
    for reference in template.of("ReferenceLatent"):
        reference.pop("latent")
    without = template.draw()
    assert np.abs(without - before).max() > 4
    template.of("MDiT_Sampler")[0]["seed"] = 2
    assert np.array_equal(template.draw(), without)
