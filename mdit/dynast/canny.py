"""Canny's edge detector as scikit-image computes it by default (docs/design/dynast.md, section 4.1).

Other implementations find other edges.
"""
from __future__ import annotations

import numpy as np
from scipy import ndimage

LOW = float(np.float32(0.1))
HIGH = 0.2
Step = tuple[int, int]  # rows, columns
DOWN = (1, 0)
UP = (-1, 0)
RIGHT = (0, 1)
DOWN_RIGHT = (1, 1)
UP_RIGHT = (-1, 1)


def find_edges(luma: np.ndarray) -> np.ndarray:
    """Edges (H, W) bool of an image (H, W) uint8."""
    smoothed = smooth_image(luma / 255)
    gi = ndimage.sobel(smoothed, 0, mode="reflect")
    gj = ndimage.sobel(smoothed, 1, mode="reflect")
    m = np.sqrt(gi ** 2 + gj ** 2)
    kept = find_crests(gi, gj, m) & (m >= LOW)
    kept[[0, -1]] = False
    kept[:, [0, -1]] = False
    components, _ = ndimage.label(kept, np.ones((3, 3)))
    strong = np.unique(components[kept & (m >= HIGH)])
    return np.isin(components, strong) & kept


def smooth_image(x: np.ndarray) -> np.ndarray:
    """Filters with a Gaussian of sigma 1 that ignores pixels outside the image."""
    blur = dict(sigma=1, mode="constant", truncate=4)
    weights = ndimage.gaussian_filter(np.ones_like(x), **blur) + np.finfo(float).eps
    return ndimage.gaussian_filter(x, **blur) / weights


def find_crests(gi: np.ndarray, gj: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Where the magnitude m is not below that of either neighbor along the gradient (gi, gj)."""
    steep = np.abs(gi) > np.abs(gj)
    flat = np.abs(gi) < np.abs(gj)
    same = (gi > 0) == (gj > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(steep, np.abs(gj) / np.abs(gi), np.abs(gi) / np.abs(gj))
    return (same & steep & is_crest(m, w, DOWN, DOWN_RIGHT)
            | same & ~steep & is_crest(m, w, RIGHT, DOWN_RIGHT)
            | ~same & flat & is_crest(m, w, RIGHT, UP_RIGHT)
            | ~same & ~flat & is_crest(m, w, UP, UP_RIGHT))


def is_crest(m: np.ndarray, w: np.ndarray, straight: Step, diagonal: Step) -> np.ndarray:
    ahead = interpolate(m, w, straight, diagonal)
    behind = interpolate(m, w, (-straight[0], -straight[1]), (-diagonal[0], -diagonal[1]))
    return (m >= ahead) & (m >= behind)


def interpolate(m: np.ndarray, w: np.ndarray, straight: Step, diagonal: Step) -> np.ndarray:
    """m between two neighbors, with weight w on the diagonal one; it wraps around at the border."""
    near = np.roll(m, (-straight[0], -straight[1]), (0, 1))
    far = np.roll(m, (-diagonal[0], -diagonal[1]), (0, 1))
    return w * far + (1 - w) * near
