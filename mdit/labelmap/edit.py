"""Edits of one class of a label map.

Every function takes class indices (B, H, W) uint8 and returns new indices of the same shape. Pixels that the class
leaves take the class of the nearest pixel of any other class: a moved eye leaves skin behind. The edited class
overwrites the classes at its new position and is cut off at the border. A label map without the class stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt


def move(indices: torch.Tensor, class_index: int, dx: int, dy: int) -> torch.Tensor:
    """Shift a class by whole pixels, dx to the right and dy down."""
    def shift(region: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(region)
        return _place_pixels(y + dy, x + dx, region.shape)
    return _reshape(indices, class_index, shift)


def scale(indices: torch.Tensor, class_index: int, width: float, height: float) -> torch.Tensor:
    """Stretch a class about the centre of its bounding box by two factors > 0 (1 keeps the size)."""
    def stretch(region: np.ndarray) -> np.ndarray:
        rows = _find_sources(region.any(axis=1), height)
        columns = _find_sources(region.any(axis=0), width)
        return np.pad(region, 1)[np.ix_(rows + 1, columns + 1)]
    return _reshape(indices, class_index, stretch)


def grow(indices: torch.Tensor, class_index: int, pixels: float) -> torch.Tensor:
    """Widen a class by a radius in pixels. A negative radius shrinks the class, except along the image border."""
    def widen(region: np.ndarray) -> np.ndarray:
        if pixels > 0:
            return _measure_depth(~region) <= pixels
        return _measure_depth(region) > -pixels
    return _reshape(indices, class_index, widen)


def remove(indices: torch.Tensor, class_index: int) -> torch.Tensor:
    """Fill a class from its neighbours; a label map of this class alone becomes background."""
    return _reshape(indices, class_index, np.zeros_like)


def replace(indices: torch.Tensor, class_index: int, by: int) -> torch.Tensor:
    """Turn every pixel of a class into another class."""
    return torch.where(indices == class_index, torch.full_like(indices, by), indices)


def _reshape(
    indices: torch.Tensor, class_index: int, new_region: Callable[[np.ndarray], np.ndarray],
) -> torch.Tensor:
    """Give a class the pixels new_region(old pixels), both (H, W) bool, in every label map that shows the class."""
    edited = []
    for labels in indices.cpu().numpy():  # (H, W)
        region = labels == class_index
        if region.any():
            labels = _fill_region(labels, region)
            labels[new_region(region)] = class_index
        edited.append(labels)
    return torch.from_numpy(np.stack(edited)).to(indices.device)


def _fill_region(labels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The label map (H, W) with every pixel of the region copied from the nearest pixel outside the region."""
    if region.all():
        return np.zeros_like(labels)
    nearest = distance_transform_edt(region, return_distances=False, return_indices=True)  # (2, H, W)
    return labels[tuple(nearest)]


def _place_pixels(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Region (H, W) of the pixels at y and x; pixels outside the shape are cut off."""
    inside = (0 <= y) & (y < shape[0]) & (0 <= x) & (x < shape[1])
    region = np.zeros(shape, dtype=bool)
    region[y[inside], x[inside]] = True
    return region


def _find_sources(occupied: np.ndarray, factor: float) -> np.ndarray:
    """Along one axis, the source of each pixel after stretching; -1 or n for a source outside the image."""
    n = len(occupied)
    centre = np.flatnonzero(occupied)[[0, -1]].mean()
    source = np.floor((np.arange(n) - centre) / factor + centre + 0.5)
    return source.clip(-1, n).astype(int)


def _measure_depth(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel in the region to the nearest pixel outside the region; 0 outside."""
    if region.all():
        return np.full(region.shape, np.inf)
    return distance_transform_edt(region)
