"""Every node of the pack on a pretended card, under the host's flags that change where inputs lie and their type."""
import functools

import pytest
import torch

from mditface.nodes import NODES
from mditface.tests.devices.graphs import Run, move_links, read_template, repaint_photo, train_adapter
from mditface.tests.devices.host import pretend_cards

pytestmark = pytest.mark.usefixtures("files")

TEMPLATES = ("8 Own weights, face after an exemplar (DynaST)", "5 Person after a pose", "3 Photo, change the hair",
             "5 Scene with a known person", "4 Painted face to photo (Face-MoGLE)", "2 Paint a face, all nodes",
             "8 Own weights, face after an exemplar", "6 FLUX, label map (EasyControl)",
             "6 FLUX, colours for a photo (OminiControl)", "6 FLUX, edges (EasyControl)",
             "2 Paint a face, guidance apart", "2 Paint a face, two prompts", "5 Scene, who does what",
             "5 Scene, two prompts", "2 Edit a label map",
             "3 Photo, draw the face anew", "2 Label map from SAM3 and MediaPipe", "8 Own weights, SD35",
             "4 Painted face to photo (MMFace-DiT)", "4 Sketch to photo (MMFace-DiT)",
             "4 Painted face to photo (any checkpoint)", "4 Painted face to photo (SDXL)",
             "4 Painted face to photo (Z-Image)", "5 Text to image (PT-DiT)")
GRAPHS = {name: functools.partial(read_template, name) for name in TEMPLATES}
GRAPHS |= {"train": train_adapter, "3 Photo, change the hair": repaint_photo}
FLAGS = {
    "gpu-only": dict(gpu_only=True),
    "novram async-offload 1 fp16-intermediates": dict(novram=True, streams=1, fp16_intermediates=True),
}
ONCE = {"6 FLUX, label map (EasyControl)": "async", "6 FLUX, edges (EasyControl)": "gpu-only",  # slow
        "6 FLUX, colours for a photo (OminiControl)": "async",  # slow
        "5 Scene, two prompts": "async",  # slow
        "2 Paint a face, two prompts": "async",  # only its size of the picture is new
        "8 Own weights, face after an exemplar (DynaST)": "gpu-only",  # the exemplar's last digits choose keys
        "4 Painted face to photo (Z-Image)": "gpu-only"}  # random weights make much of half precision's rounding
PAIRS = [pytest.param(name, flags, id=f"{name}-{key}") for name in TEMPLATES for key, flags in FLAGS.items()
         if ONCE.get(name, "") in key]
MOVED = ([(name, "cuda:0", "float16") for name in (
    "5 Person after a pose", "5 Scene with a known person", "2 Edit a label map", "3 Photo, draw the face anew",
    "2 Label map from SAM3 and MediaPipe", "3 Photo, change the hair", "train")]
         + [(name, "cpu", "float64") for name in (
             "8 Own weights, face after an exemplar", "3 Photo, draw the face anew")])
ELSEWHERE = {"MDiT_LoadFaceDiffuser", "MDiT_PTDiTText"}  # files of full size only


@functools.cache
def run_on_cpu(name: str) -> dict[str, torch.Tensor]:
    return Run(GRAPHS[name]()).list_tensors()


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-3,
            share: float = 0.01):
    """Equal but for rounding, and for the share of places where a choice of a class or key hangs on the last digit."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        scale = max(1.0, expected[name].abs().max().item())
        far = ((value - expected[name]).abs() > tolerance * scale).float().mean().item()
        assert far <= share, f"{name}: {far:.1%} of the numbers differ"


@pytest.mark.parametrize("name, flags", PAIRS)
def test_a_card_gives_what_the_cpu_gives(name, flags):
    expected = run_on_cpu(name)
    with pretend_cards(force_fp32=True, **flags):
        found = Run(GRAPHS[name]()).list_tensors()
    if flags.get("fp16_intermediates"):
        compare(found, expected, tolerance=0.02, share=0.1)
    else:
        compare(found, expected)


@pytest.mark.parametrize("name, device, dtype", MOVED)
def test_inputs_may_lie_elsewhere(name, device, dtype):
    """Other nodes give images, masks and latents on any device, in any type."""
    expected = run_on_cpu(name)
    with pretend_cards(force_fp32=True, gpu_only=device == "cpu"):
        found = Run(move_links(GRAPHS[name](), device, dtype)).list_tensors()
    compare(found, expected, tolerance=0.02, share=0.1)


def test_the_graphs_hold_every_node():
    used = {one["class_type"] for make in GRAPHS.values() for one in make().values()}
    assert {node.GET_SCHEMA().node_id for node in NODES} - used == ELSEWHERE
