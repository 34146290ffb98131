"""A few common sizes for images of many sizes, so that batches can be made of them."""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .decoding import Size


def find_bucket_sizes(sizes: Sequence[Size], area: int, multiple: int = 16) -> list[Size]:
    """The common size (height, width) of each sample: the one with the nearest aspect.

    sizes: (height, width) of each sample.
    area: no common size has more pixels.
    multiple: divides both sides of the common sizes (VAE factor times patch).
    Raises ValueError for an area that is smaller than one square of `multiple` pixels.
    """
    if area < multiple ** 2:
        raise ValueError(f"an area of {area} pixels holds no image of {multiple}x{multiple}: give a larger area")
    heights = range(multiple, area // multiple + 1, multiple)
    common = [(height, area // height // multiple * multiple) for height in heights]
    aspects = np.array([compute_log_aspect(size) for size in common])
    nearest = {size: common[np.abs(aspects - compute_log_aspect(size)).argmin()] for size in set(map(tuple, sizes))}
    return [nearest[tuple(size)] for size in sizes]


def compute_log_aspect(size: Size) -> float:
    height, width = size
    return math.log(height / width)
