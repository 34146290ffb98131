"""Noise levels of PT-DiT (docs/design/pt-dit.md, section 8)."""
from __future__ import annotations

import math

import torch
from torch import Tensor

from comfy.model_sampling import time_snr_shift

BASE = 512  # pixels at which nothing is shifted


def compute_shift(width: int, height: int, frames: int = 1) -> float:
    """The shift of the schedule for a size in pixels and a number of video frames; 1 for an image.

    Raises ValueError for 2 to 16 frames, which make no latent frame.
    """
    latents = 1 if frames == 1 else frames // 17 * 5
    if not latents:
        raise ValueError(f"frames: {frames} frames are less than the 17 that make the first latents of a video: "
                         "choose 1 for an image, or at least 17")
    return math.sqrt(width * height) / BASE * math.sqrt(latents)


def compute_sigmas(shift: float, steps: int) -> Tensor:
    """Noise levels (steps + 1,) from 1 to 0, evenly spaced before they are shifted."""
    even = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return time_snr_shift(shift, even).float()
