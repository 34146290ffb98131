"""Canny's edge detector as scikit-image computes it by default (spec section 4.1); others find other edges."""
from __future__ import annotations

import numpy as np
from scipy import ndimage

LOW, HIGH = float(np.float32(0.1)), 0.2
DOWN, UP, RIGHT, LEFT = (1, 0), (-1, 0), (0, 1), (0, -1)  # (rows, columns)


def canny(luma: np.ndarray) -> np.ndarray:
    """Edges (H, W) bool of a picture (H, W) uint8."""
    smooth = smoothed(luma / 255)
    gi, gj = (ndimage.sobel(smooth, axis, mode="reflect") for axis in (0, 1))
    m = np.sqrt(gi ** 2 + gj ** 2)
    kept = crests(gi, gj, m) & (m >= LOW)
    kept[[0, -1]] = kept[:, [0, -1]] = False
    parts, _ = ndimage.label(kept, np.ones((3, 3)))
    strong = np.unique(parts[kept & (m >= HIGH)])
    return np.isin(parts, strong) & kept


def smoothed(x: np.ndarray) -> np.ndarray:
    """By a Gaussian of sigma 1, where the picture's outside does not count."""
    blur = dict(sigma=1, mode="constant", truncate=4)
    return ndimage.gaussian_filter(x, **blur) / (ndimage.gaussian_filter(np.ones_like(x), **blur) + np.finfo(float).eps)


def crests(gi: np.ndarray, gj: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Where m is not below what it is a pixel further along the gradient (gi, gj), to either side."""
    steep = np.abs(gi) > np.abs(gj)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(steep, np.abs(gj) / np.abs(gi), np.abs(gi) / np.abs(gj))
    same = (gi > 0) == (gj > 0)
    found = np.zeros(m.shape, bool)
    for where, straight, diagonal in (
            (same & steep, DOWN, (1, 1)), (same & ~steep, RIGHT, (1, 1)),
            (~same & (np.abs(gi) < np.abs(gj)), RIGHT, (-1, 1)), (~same & (np.abs(gi) >= np.abs(gj)), UP, (-1, 1))):
        ahead = between(m, w, straight, diagonal)
        behind = between(m, w, *(tuple(-n for n in step) for step in (straight, diagonal)))
        found |= where & (m >= ahead) & (m >= behind)
    return found


def between(m: np.ndarray, w: np.ndarray, straight: tuple, diagonal: tuple) -> np.ndarray:
    """m at a point between two neighbours, w of the way to the diagonal one; beyond the picture it goes around."""
    near, far = (np.roll(m, (-step[0], -step[1]), (0, 1)) for step in (straight, diagonal))
    return w * far + (1 - w) * near
