"""Templates that make a photograph of a painted face: what the label map says reaches the image.

The models are tiny ones with random weights, so images are noise; two runs differ by what was changed alone.
"""
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from mditface.mdit.labelmap.drawing import decode_drawing, encode_drawing
from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.test_templates import TEMPLATES

PHOTOS = ("4 Painted face to photo (Z-Image)", "4 Painted face to photo (SDXL)",
          "4 Painted face to photo (any checkpoint)")


@pytest.fixture(params=PHOTOS)
def graph(request, tiny_models) -> dict:
    """A template on tiny models, in API form."""
    twin = TEMPLATES[request.param].parent / "api" / f"{request.param}.json"
    return stand_ins.runnable(json.loads(twin.read_text()))


def find(graph: dict, kind: str) -> list[dict]:
    return [one for one in graph.values() if one["class_type"] == kind]


def repaint(graph: dict, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Changes the label map (H, W) in the painter."""
    (painter,) = find(graph, "MDiT_PaintLabelMap")
    labels = decode_drawing(painter["inputs"]["drawing"])
    painter["inputs"]["drawing"] = encode_drawing(change(labels).contiguous())


def draw(server, graph: dict) -> np.ndarray:
    """The first image that a graph saves."""
    entry = server.run(graph)
    saving = next(key for key, one in graph.items() if one["class_type"] == "SaveImage")
    return np.asarray(server.picture(entry["outputs"][saving]["images"][0]), int)


def test_another_painting_makes_another_photograph(server, graph):
    before = draw(server, graph)
    repaint(graph, lambda labels: labels.flip(0))
    assert np.abs(draw(server, graph) - before).max() > 8


def test_the_control_map_is_read(server, graph):
    before = draw(server, graph)
    for one in graph.values():
        if "strength" in one["inputs"]:
            one["inputs"]["strength"] = 0.0
    assert np.abs(draw(server, graph) - before).max() > 8


def test_the_photograph_has_the_size_of_the_painting(server, graph):
    repaint(graph, lambda labels: labels[:, 16:48])
    assert draw(server, graph).shape == (64, 32, 3)
