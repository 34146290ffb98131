"""What holds for each system alike: right at the second run, freed by the host's button, stopped by Cancel."""
import copy
import json

import numpy as np
import pytest

from mditface.tests.e2e import stand_ins
from mditface.tests.e2e.graphs import cancelled, inspect, system_loaders
from mditface.tests.e2e.test_templates import TEMPLATES

TEMPLATES_OF_SYSTEMS = ("2 Paint a face, all nodes", "8 Own weights, SD35", "6 FLUX, label map (EasyControl)",
                        "4 Painted face to photo (Face-MoGLE)", "5 Scene, who does what",
                        "5 Scene with a known person", "5 Text to image (PT-DiT)",
                        "8 Own weights, face after an exemplar (DynaST)", "4 Painted face to photo (MMFace-DiT)")
SIZED = ("EmptyLatentImage", "EmptySD3LatentImage", "ImageScale", "MDiT_DrawInteractions", "MDiT_PTDiTShift")
LONG = 900  # steps


def twin(name: str) -> dict:
    """The graph in API form of a template."""
    return json.loads((TEMPLATES[name].parent / "api" / f"{name}.json").read_text())


@pytest.fixture(params=TEMPLATES_OF_SYSTEMS)
def graph(request, tiny_models) -> dict:
    return stand_ins.runnable(twin(request.param))


def changed(graph: dict, change) -> dict:
    """A copy in which `change(class_type, inputs)` has gone over every node."""
    copied = copy.deepcopy(graph)
    for node in copied.values():
        change(node["class_type"], node["inputs"])
    return copied


def wider(kind, inputs):
    if kind in SIZED and isinstance(inputs["width"], int):
        inputs["width"] += 32


def other_prompt(kind, inputs):
    if kind == "Probe_RandomText":
        inputs["seed"] += 7
    elif kind in ("CLIPTextEncode", "MDiT_TextConditioning") and inputs["text"]:
        inputs["text"] = "old man, green background"


def longer(kind, inputs):
    inputs |= {"steps": LONG} if isinstance(inputs.get("steps"), int) else {}
    inputs |= {"scheduler": "simple"} if "scheduler" in inputs else {}


def pixels(server, graph) -> np.ndarray:
    entry = server.run(graph)
    (saved,) = (key for key, node in graph.items() if node["class_type"] == "SaveImage")
    return np.asarray(server.picture(entry["outputs"][saved]["images"][0])).astype(float)


def test_no_system_is_left_out():
    used = {node["class_type"] for name in TEMPLATES_OF_SYSTEMS for node in twin(name).values()}
    assert system_loaders() <= used


def test_another_size_and_prompt_and_the_first_again(server, graph):
    """The host's button between the last two makes it compute everything anew, and leaves nothing in memory."""
    first = pixels(server, graph)
    assert pixels(server, changed(graph, wider)).shape == (first.shape[0], first.shape[1] + 32, 3)
    assert (pixels(server, changed(graph, other_prompt)) != first).any()
    server.free()
    found = inspect(server)
    assert (found["loaded"], found["caches"]) == ([], 0)
    assert (pixels(server, graph) == first).all()


def test_cancel(server, graph):
    _, seconds = cancelled(server, changed(graph, longer), lambda data: data["max"] >= LONG and data["value"] > 2)
    assert seconds < 1
    pixels(server, graph)
