"""What training gives a model with an exemplar branch to look at, and how near a picture comes to it."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mditface.attention import ExemplarKeys
from ..mditface.exemplar_branch import ExemplarTokens, MatchSide
from ..mditface.math import patchify
from ..mditface.model import MDiT
from ..datasets.augment import mirror, normalize
from ..training.sampling import mask_inputs

SMALLEST = 0.6  # side of a crop, as a share of the picture's


def other_view(images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crops of images (B, 3, S, S) and label maps (B, S, S) uint8, at their size, half of them mirrored.

    The colours are the same, the places are not: only a look at the right part tells what is there.
    """
    batch = len(images)
    images, labels = mirror(images, labels, torch.rand(batch, generator=rng) < 0.5)
    side = SMALLEST + (1 - SMALLEST) * torch.rand(batch, 1, generator=rng)
    shift = (1 - side) * (2 * torch.rand(batch, 2, generator=rng) - 1)
    affine = torch.cat((torch.diag_embed(side.expand(-1, 2)), shift.unsqueeze(-1)), dim=-1)  # (B, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)

    def cut(x: Tensor, mode: str) -> Tensor:
        return F.grid_sample(x.float(), grid, mode, "border", align_corners=False).round().to(torch.uint8)
    return cut(images, "bilinear"), cut(labels[:, None], "nearest")[:, 0]


def exemplar_keys(model: MDiT, labels: Tensor, images: Tensor, image_labels: Tensor, strength: float | Tensor = 1.0
                  ) -> ExemplarKeys:
    """What pictures after label maps (B, S, S) read of exemplars (B, 3, S, S) uint8 with label maps of their own."""
    patch = model.config.patch
    grid = (labels.shape[-1] // patch,) * 2

    def side(labels: Tensor) -> MatchSide:
        tokens, places = mask_inputs(labels, model)
        return MatchSide(tokens, (places + 0.5) / grid[0], grid)
    tokens = ExemplarTokens(side(labels), side(image_labels), patchify(normalize(images), patch))
    (candidates, match), kv = model.exemplar.static_path(tokens)
    return ExemplarKeys(candidates, match, list(kv), strength)
