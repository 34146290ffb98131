"""Edits of one class of a label map.

Every function takes (B, H, W) uint8 indices and returns new ones of the same shape. Pixels that the class
gives up take the class of the nearest pixel of any other class, so a moved eye leaves skin behind. What the
class comes to lie on is overwritten, what leaves the picture is cut off, and a picture without the class
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt


def move(indices: torch.Tensor, class_id: int, dx: int, dy: int) -> torch.Tensor:
    """Shift a class by whole pixels, dx to the right and dy down."""
    def shifted(region: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(region)
        return _region_at(y + dy, x + dx, region.shape)
    return _reshape(indices, class_id, shifted)


def scale(indices: torch.Tensor, class_id: int, width: float, height: float) -> torch.Tensor:
    """Stretch a class about the centre of its bounding box by two factors > 0 (1 keeps the size)."""
    def stretched(region: np.ndarray) -> np.ndarray:
        rows = _source(region.any(axis=1), height)
        columns = _source(region.any(axis=0), width)
        return np.pad(region, 1)[np.ix_(rows + 1, columns + 1)]
    return _reshape(indices, class_id, stretched)


def grow(indices: torch.Tensor, class_id: int, pixels: float) -> torch.Tensor:
    """Widen a class by a radius in pixels; a negative one shrinks it, not along the picture's edge."""
    def grown(region: np.ndarray) -> np.ndarray:
        return _distance_inside(~region) <= pixels if pixels > 0 else _distance_inside(region) > -pixels
    return _reshape(indices, class_id, grown)


def remove(indices: torch.Tensor, class_id: int) -> torch.Tensor:
    """Fill a class from its neighbours; a picture of nothing else becomes background."""
    return _reshape(indices, class_id, np.zeros_like)


def replace(indices: torch.Tensor, class_id: int, by: int) -> torch.Tensor:
    """Turn every pixel of a class into another class."""
    return torch.where(indices == class_id, torch.full_like(indices, by), indices)


def _reshape(
    indices: torch.Tensor, class_id: int, new_region: Callable[[np.ndarray], np.ndarray],
) -> torch.Tensor:
    """Give a class the pixels new_region(old pixels), both (H, W) bool, in every picture that shows it."""
    edited = []
    for picture in indices.cpu().numpy():
        region = picture == class_id
        if region.any():
            picture = _without(picture, region)
            picture[new_region(region)] = class_id
        edited.append(picture)
    return torch.from_numpy(np.stack(edited)).to(indices.device)


def _without(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The picture with every pixel of the region copied from the nearest pixel outside it."""
    if region.all():
        return np.zeros_like(picture)
    nearest = distance_transform_edt(region, return_distances=False, return_indices=True)  # (2, H, W)
    return picture[tuple(nearest)]


def _region_at(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    inside = (0 <= y) & (y < shape[0]) & (0 <= x) & (x < shape[1])
    region = np.zeros(shape, dtype=bool)
    region[y[inside], x[inside]] = True
    return region


def _source(occupied: np.ndarray, factor: float) -> np.ndarray:
    """Along one axis, the pixel that each pixel shows after stretching; -1 or n for one off the picture."""
    n = len(occupied)
    centre = np.flatnonzero(occupied)[[0, -1]].mean()
    source = np.floor((np.arange(n) - centre) / factor + centre + 0.5)
    return source.clip(-1, n).astype(int)


def _distance_inside(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of the region to the nearest pixel outside it, 0 outside."""
    if region.all():
        return np.full(region.shape, np.inf)
    return distance_transform_edt(region)
