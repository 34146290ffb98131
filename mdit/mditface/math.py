"""Functions on tensors that several modules share."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TIME_FEATURES = 256  # of the sinusoidal embedding of the time


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, h * patch, w * patch) -> (B, h * w, C * patch^2)."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, patch: int, h: int, w: int) -> Tensor:
    """(B, h * w, C * patch^2) -> (B, C, h * patch, w * patch)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (h, w)), patch)


def rescale_positions(positions: Tensor, transformer_options: dict) -> Tensor:
    """Rows and columns (M, 2) under the host's rotary options."""
    options = transformer_options.get("rope_options") or {}
    scale = [options.get("scale_y", 1.0), options.get("scale_x", 1.0)]
    shift = [options.get("shift_y", 0.0), options.get("shift_x", 0.0)]
    return positions * positions.new_tensor(scale) + positions.new_tensor(shift)
