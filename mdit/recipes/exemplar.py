"""Exemplars for training a model with an exemplar branch."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mditface.attention import ExemplarKeys
from ..mditface.exemplar_branch import ExemplarTokens, MatchSide
from ..mditface.math import patchify
from ..mditface.model import MDiT
from ..datasets.augment import mirror, normalize
from ..training.sampling import make_mask_inputs

SMALLEST_CROP = 0.6  # its side, as a fraction of the image's


def crop_randomly(images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops of images (B, 3, S, S) and label maps (B, S, S) uint8, at their size, half of them mirrored.

    The colours stay the same, the positions change: the model must read the matching part of the exemplar.
    """
    batch = len(images)
    images, labels = mirror(images, labels, torch.rand(batch, generator=rng) < 0.5)
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(batch, 1, generator=rng)
    shift = (1 - side) * (2 * torch.rand(batch, 2, generator=rng) - 1)
    affine = torch.cat((torch.diag_embed(side.expand(-1, 2)), shift.unsqueeze(-1)), dim=-1)  # (B, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)

    def cut(x: Tensor, mode: str) -> Tensor:
        return F.grid_sample(x.float(), grid, mode, "border", align_corners=False).round().to(torch.uint8)
    return cut(images, "bilinear"), cut(labels[:, None], "nearest")[:, 0]


def make_exemplar_keys(model: MDiT, labels: Tensor, images: Tensor, image_labels: Tensor, strength: float | Tensor = 1.0
                  ) -> ExemplarKeys:
    """Keys of exemplars (B, 3, S, S) uint8 with label maps of their own, for images of label maps (B, S, S)."""
    patch = model.config.patch
    grid = (labels.shape[-1] // patch,) * 2

    def make_side(labels: Tensor) -> MatchSide:
        tokens, positions = make_mask_inputs(labels, model)
        return MatchSide(tokens, (positions + 0.5) / grid[0], grid)
    tokens = ExemplarTokens(make_side(labels), make_side(image_labels), patchify(normalize(images), patch))
    (candidates, match), kv = model.exemplar.run_static_path(tokens)
    return ExemplarKeys(candidates, match, list(kv), strength)
