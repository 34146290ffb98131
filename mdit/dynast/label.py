"""Labels and images in the form that a DynaST generator reads (docs/design/dynast.md, sections 3 to 5).

A label describes the layout of the target or of the exemplar.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

import comfy.model_management
import comfy.utils

from .config import COARSEST

KINDS = {20: "a pose (connect 'Build Pose Label')", 15: "a face (connect 'Build Face Edge Label')"}  # by channels
FARTHEST = 255
PIXELS = 3  # in one step of a distance channel
SMALLEST = 2 * COARSEST  # side in pixels: reflection padding needs two positions at the coarsest level


class Label(NamedTuple):
    """Labels of one size. channels: (B, nc, S, S) uint8, which the network reads as 0..1."""
    channels: Tensor

    @property
    def nc(self) -> int:
        return self.channels.shape[1]

    @property
    def size(self) -> int:
        return self.channels.shape[-1]

    def check(self, nc: int, source: str):
        """Raises ValueError, naming the input `source`, if the label does not have `nc` channels."""
        if self.nc != nc:
            raise ValueError(f"{source}: this label has {self.nc} channels, but the model reads {nc}: it was trained "
                             f"for {KINDS.get(nc, 'another task')}. Or load the model for this kind of label")


def check_size(size: int):
    """Raises ValueError for a side in pixels that the levels cannot halve."""
    if size % COARSEST or size < SMALLEST:
        raise ValueError(f"size: {size} pixels, but it must be a multiple of {COARSEST} and at least {SMALLEST}: "
                         "choose 256, the size that the published model was trained for")


def stack_labels(labels: Iterable[np.ndarray], count: int) -> Label:
    """Stacks `count` arrays (nc, S, S) uint8, with a progress bar; each may be computed when it is iterated over."""
    progress = comfy.utils.ProgressBar(count)
    made = []
    for label in labels:
        comfy.model_management.throw_exception_if_processing_interrupted()
        made.append(label)
        progress.update(1)
    return Label(torch.from_numpy(np.stack(made)))


def measure_distances(marked: np.ndarray) -> np.ndarray:
    """City-block distances to the nearest marked pixel of (H, W) bool, in steps of 3 pixels up to 255, as uint8.

    All distances are 255 if no pixel is marked.
    """
    if not marked.any():
        return np.full(marked.shape, FARTHEST, np.uint8)
    pixels = distance_transform_cdt(~marked, metric="taxicab")
    return np.minimum(pixels // PIXELS, FARTHEST).astype(np.uint8)


def to_uint8(image: Tensor) -> np.ndarray:
    """(H, W, 3 or 4) in 0..1 -> (H, W, 3) uint8."""
    return (image[..., :3].float().cpu().clamp(0, 1) * 255).round().byte().numpy()


def prepare_exemplar(image: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, S, S) in -1..1, stretched."""
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).movedim(-1, 0) / 127.5 - 1
