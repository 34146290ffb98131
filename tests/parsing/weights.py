"""Weights of face parsers for the tests: the published layouts, filled from each name."""
from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mditface.mdit.labelmap import CLASSES

DATA = Path(__file__).with_name("data")
# of the smallest Segformer; class names as in the config.json of jonathandinu/face-parsing
SEGFORMER = dict(
    hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=16,
    num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES)), label2id={name: k for k, name in enumerate(CLASSES)})


def values(name: str, shape: list[int]) -> Tensor:
    """Numbers that depend on nothing but the name, of a size that keeps signals alive through many layers."""
    noise = torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)).float()
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1000)
    if name.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if noise.ndim == 4:
        return noise * (2 / noise[0].numel()) ** 0.5
    return 0.1 * noise + name.endswith("weight")


def bisenet() -> dict[str, Tensor]:
    """A state dict with the names and shapes of the published checkpoint."""
    shapes = json.loads((DATA / "bisenet-shapes.json").read_text())
    return {name: values(name, shape) for name, shape in shapes.items()}


def segformer(folder: Path, **changes) -> Path:
    """A folder as transformers publishes it; the path of its weights file."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(SegformerConfig(**{**SEGFORMER, **changes})).save_pretrained(folder)
    return folder / "model.safetensors"


def known_face() -> dict:
    """What MediaPipe 0.10.14 found in the portrait of Eileen Collins (NASA, public domain): `landmarks` (478, 2) in
    pixels, `image_size`, and the mesh's `connection_sets`."""
    return json.loads((DATA / "landmarks.json").read_text())


def face_landmarker() -> dict[str, Tensor]:
    """Weights for the host's MediaPipe detector that find the known face in any 512 x 512 image.

    What they leave out may be as the host initialises it.
    """
    known = known_face()
    places = torch.tensor(known["landmarks"])  # (478, 2)
    box = 8  # of the only box, in sides of the image: so large that the suppression leaves one of all positions
    canonical = (places - 256) * 192 / (1.5 * box * 512) + 96
    depth = torch.linspace(-1, 1, 478)[:, None] ** 2
    weights = {
        **head("detector_short.cls_16", 88, [-100.0] * 2),
        **head("detector_short.cls_8", 96, [100.0] + [-100.0] * 5),
        **head("detector_short.reg_16", 88, [0.0] * 32),
        **head("detector_short.reg_8", 96, ([0.0] * 2 + [128.0 * box] * 2 + [0.0] * 12) * 6),
        **head("detector_full.cls_dw", 1, [100.0] * 4, 3),
        **head("detector_full.reg_dw", 1, ([0.0] * 2 + [192.0 * box] * 2 + [0.0] * 12) * 4, 3),
        **head("mesh.head_landmarks", 8, torch.cat([canonical, depth], dim=1).flatten(), 3),
        "canonical_vertices": torch.cat([(places - 225) / 10, depth], dim=1),
        "procrustes_indices": torch.arange(0, 460, 20), "procrustes_weights": torch.ones(23),
    }
    for name, edges in known["connection_sets"].items():
        weights[f"topology.{name}"] = torch.tensor(edges, dtype=torch.int32)
    return weights


def head(name: str, n_in: int, bias, kernel: int = 1) -> dict[str, Tensor]:
    """A convolution that gives its bias whatever it sees."""
    bias = torch.as_tensor(bias, dtype=torch.float32)
    return {f"{name}.weight": torch.zeros(len(bias), n_in, kernel, kernel), f"{name}.bias": bias}
