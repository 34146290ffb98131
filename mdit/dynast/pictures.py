"""The host's pictures as the networks were trained to see them: in 8 bits, resized by PIL (spec section 3)."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_bytes(picture: Tensor) -> np.ndarray:
    """(H, W, 3 or 4) in 0..1 -> (H, W, 3) uint8."""
    return (picture[..., :3].float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def prepared(picture: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, S, S) in -1..1, stretched."""
    resized = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).movedim(-1, 0) / 127.5 - 1
