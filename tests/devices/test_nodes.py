"""Every node of the pack on a pretended card, under the host's flags that change where inputs lie and their type."""
import functools

import pytest
import torch

from mditface.nodes import NODES
from mditface.tests.devices.graphs import Run, move_links, read_template, repaint_photo, train_adapter
from mditface.tests.devices.host import pretend_cards

pytestmark = pytest.mark.usefixtures("files")

TEMPLATES = ("dynast_face", "dynast_person", "edit_photo", "face_diffuser", "face_mogle", "mditface",
             "mditface_exemplar", "mditface_flux_easycontrol", "mditface_flux_ominicontrol", "mditface_flux_picture",
             "mditface_guider", "mditface_interaction", "mditface_interaction_regions", "mditface_label_maps",
             "mditface_photo", "mditface_sam3", "mditface_sd35", "mmface", "mmface_sketch", "photo_img2img",
             "photo_sdxl", "photo_zimage", "pt_dit")
GRAPHS = {name: functools.partial(read_template, name) for name in TEMPLATES}
GRAPHS |= {"train": train_adapter, "edit_photo": repaint_photo}
FLAGS = {
    "gpu-only": dict(gpu_only=True),
    "novram async-offload 1 fp16-intermediates": dict(novram=True, streams=1, fp16_intermediates=True),
}
ONCE = {"mditface_flux_easycontrol": "async", "mditface_flux_picture": "gpu-only",  # slow
        "mditface_flux_ominicontrol": "async",  # slow
        "mditface_interaction_regions": "async",  # slow
        "dynast_face": "gpu-only"}  # keys are chosen by the last digits of the exemplar
PAIRS = [pytest.param(name, flags, id=f"{name}-{key}") for name in TEMPLATES for key, flags in FLAGS.items()
         if ONCE.get(name, "") in key]
MOVED = ([(name, "cuda:0", "float16") for name in ("dynast_person", "face_diffuser", "mditface_label_maps",
                                                     "mditface_photo", "mditface_sam3", "edit_photo", "train")]
         + [(name, "cpu", "float64") for name in ("mditface_exemplar", "mditface_photo")])
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
