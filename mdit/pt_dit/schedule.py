"""The shift of PT-DiT's noise levels (docs/design/pt-dit.md, section 8)."""
from __future__ import annotations

import math

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
