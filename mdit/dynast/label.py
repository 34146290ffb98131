"""Labels: what a DynaST generator reads of the layouts of its target and of its exemplar (spec sections 3 to 5)."""
from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_cdt
from torch import Tensor

import comfy.model_management
import comfy.utils

from .config import COARSEST

KINDS = {20: "a pose (connect 'Build Pose Label')", 15: "a face (connect 'Build Face Edge Label')"}  # by channels
FARTHEST = 255
PIXELS = 3  # for each step of a distance channel
LEAST = 2 * COARSEST  # pixels along a side: reflection needs two positions at the coarsest level


class Label(NamedTuple):
    """channels: (B, nc, S, S) uint8, which the network reads as 0..1."""
    channels: Tensor

    @property
    def nc(self) -> int:
        return self.channels.shape[1]

    @property
    def size(self) -> int:
        return self.channels.shape[-1]

    def check(self, nc: int, source: str):
        """Raises ValueError, which names the input `source`, where a network reads labels of `nc` channels."""
        if self.nc != nc:
            raise ValueError(f"{source}: this label has {self.nc} channels, the model reads {nc}, those of "
                             f"{KINDS.get(nc, 'another task')}, or load the model for this kind of label")


def check_size(size: int):
    """Raises ValueError for a label's side in pixels that the levels cannot halve."""
    if size % COARSEST or size < LEAST:
        raise ValueError(f"size: {size} pixels, but the coarsest level needs a multiple of {COARSEST}, of at least "
                         f"{LEAST}: choose 256, which the published model was trained for")


def stacked(labels: Iterable[np.ndarray], count: int) -> Label:
    """Of so many arrays (nc, S, S) uint8, each made when its turn comes."""
    progress, made = comfy.utils.ProgressBar(count), []
    for label in labels:
        comfy.model_management.throw_exception_if_processing_interrupted()
        made.append(label)
        progress.update(1)
    return Label(torch.from_numpy(np.stack(made)))


def distances(marked: np.ndarray) -> np.ndarray:
    """City-block distances to the nearest marked pixel of (H, W) bool, in steps of 3 pixels up to 255, as uint8. Where
    nothing is marked all is farthest."""
    if not marked.any():
        return np.full(marked.shape, FARTHEST, np.uint8)
    pixels = distance_transform_cdt(~marked, metric="taxicab")
    return np.minimum(pixels // PIXELS, FARTHEST).astype(np.uint8)
