"""Edges of label maps whose pixels were blended: by compression, resampling, or smooth drawing.

Functions take and return rows of a palette, here called entries, (H, W).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

REACH = 3  # pixels between a blended pixel and the regions that it is a blend of
FAR_REACH = 9  # pixels to the regions that a thin region may be a blend of
SMOOTH_RANGE = 24  # largest difference in a channel, of 255, among the 3 x 3 pixels inside a region
THIN_DISTANCE = 12.0  # of 255, from its entry, of a pixel that can be a region one or two pixels wide
MIXED_DISTANCE = 24.0  # of 255, of a pixel from a blend of two colors
BLENDS = np.linspace(-0.25, 1.25, 31)  # fractions of the second of two colors; sharp filters go beyond 0 and 1
SPECK_FRACTION = 2e-5  # of the image's pixels: a smaller region is a speck
SMALLEST_REGION = 4  # pixels, in images of any size


def measure_range(pixels: np.ndarray) -> np.ndarray:
    """Largest difference in a channel among the 3 x 3 pixels around each pixel, of (H, W, 3) uint8: (H, W)."""
    span = _filter_square(np.maximum, pixels, 1) - _filter_square(np.minimum, pixels, 1)
    return np.maximum(np.maximum(span[..., 0], span[..., 1]), span[..., 2])


def repair_edges(
    pixels: np.ndarray, entries: np.ndarray, distance: np.ndarray, colors: np.ndarray, tolerance: float,
) -> np.ndarray:
    """Gives each pixel at an edge the entry of a region near it.

    pixels: (H, W, 3) uint8. entries: (H, W), the nearest entry of each pixel. distance: (H, W), how far the entry is.
    colors: (N, 3), the colors of the entries. tolerance: distance within which a pixel belongs to its entry.

    A pixel is sure where it and its eight neighbors are smooth and of one entry. Every other pixel takes the entry
    with the nearest color among the entries of sure pixels within `REACH`. Thin regions, which have no sure pixel,
    stay if their pixels are nearly exact and no blend of two regions around them. There, pixels that touch by a corner
    are connected.
    """
    alike = _filter_square(np.maximum, entries, 1) == _filter_square(np.minimum, entries, 1)
    sure = alike & (distance <= tolerance) & (measure_range(pixels) <= SMOOTH_RANGE)
    if not sure.any():
        return entries
    y, x = np.nonzero(~sure)
    colors_here = pixels[y, x].astype(np.float32)  # (U, 3)
    near = _find_near(entries, sure, len(colors), REACH, (y, x))  # (U, N)
    thin = _find_thin(entries, distance, colors, sure, (y, x), near)
    if thin.any():
        near |= _find_near(entries, thin, len(colors), 1, (y, x))
    away = np.linalg.norm(colors_here[:, None] - colors[None].astype(np.float32), axis=-1)  # (U, N)
    away[~near] = np.inf
    repaired = entries.copy()
    repaired[y, x] = away.argmin(axis=-1)
    lost = np.zeros_like(sure)
    lost[y, x] = ~near.any(axis=-1)
    return fill_from_nearest(repaired, lost)


def remove_specks(entries: np.ndarray) -> np.ndarray:
    """Fills connected regions of very few pixels from the regions around them."""
    specks = _find_small(entries, np.ones_like(entries, dtype=bool), ndimage.generate_binary_structure(2, 1))
    return fill_from_nearest(entries, specks)


def fill_from_nearest(entries: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The entries with every pixel of the region (H, W) copied from the nearest pixel outside the region."""
    if not region.any() or region.all():
        return entries
    nearest = ndimage.distance_transform_edt(region, return_distances=False, return_indices=True)  # (2, H, W)
    return entries[tuple(nearest)]


def _find_near(entries: np.ndarray, region: np.ndarray, count: int, reach: int, places: tuple) -> np.ndarray:
    """Which of `count` entries the region has within the reach of each of the U pixels at `places`: (U, count)."""
    near = np.zeros((len(places[0]), count), dtype=bool)
    for entry in np.unique(entries[region]):
        near[:, entry] = _filter_square(np.logical_or, region & (entries == entry), reach)[places]
    return near


def _find_thin(
    entries: np.ndarray, distance: np.ndarray, colors: np.ndarray, sure: np.ndarray, places: tuple, near: np.ndarray,
) -> np.ndarray:
    """Pixels (H, W) of thin regions.

    near: (U, N), the entries of sure regions near each of the U pixels at `places`.
    """
    thin = np.zeros(entries.shape, dtype=bool)
    entry = entries[places]  # (U,)
    chosen = np.flatnonzero((distance[places] <= THIN_DISTANCE) & ~near[np.arange(len(entry)), entry])
    rows = tuple(axis[chosen] for axis in places)
    around = _find_near(entries, sure, len(colors), FAR_REACH, rows)  # (len(chosen), N)
    # At the image's border, the background that a pixel is a blend with may lie outside.
    around[:, 0] |= is_at_border(*rows, entries.shape)
    known: dict[tuple, bool] = {}
    for y, x, regions in zip(*rows, around):
        case = entries[y, x].item(), regions.tobytes()
        if case not in known:
            known[case] = _is_blend(colors, case[0], np.flatnonzero(regions))
        thin[y, x] = not known[case]
    return thin & ~_find_small(entries, thin, np.ones((3, 3), dtype=bool))


def _find_small(entries: np.ndarray, region: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of the region that are in specks of one entry; `neighbors` (3, 3) are those that connect."""
    least = max(SMALLEST_REGION, round(SPECK_FRACTION * entries.size))
    small = np.zeros_like(region)
    numbers = np.where(region, entries.astype(np.int32) + 1, 0)
    for number, box in enumerate(ndimage.find_objects(numbers), 1):
        if box is not None:
            parts, _ = ndimage.label(numbers[box] == number, neighbors)
            few = np.bincount(parts.ravel()) < least
            few[0] = False
            if few.any():
                small[box] |= few[parts]
    return small


def is_at_border(y: np.ndarray, x: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which of the pixels at y and x, (U,) each, lie within reach of the border of an image of this shape."""
    return np.minimum(np.minimum(y, shape[0] - 1 - y), np.minimum(x, shape[1] - 1 - x)) < REACH


def _is_blend(colors: np.ndarray, entry: int, regions: np.ndarray) -> bool:
    """Whether the color of an entry is near a blend of two of the regions, or near an overshoot of their edge."""
    target = colors[entry].astype(float)
    for i, first in enumerate(regions):
        for second in regions[i + 1:]:
            blends = colors[first] + BLENDS[:, None] * (colors[second].astype(float) - colors[first])  # (V, 3)
            if np.linalg.norm(blends.clip(0, 255) - target, axis=-1).min() <= MIXED_DISTANCE:
                return True
    return False


def _filter_square(combine: np.ufunc, image: np.ndarray, reach: int) -> np.ndarray:
    """Combines the (2 reach + 1) x (2 reach + 1) pixels around each pixel of (H, W, ...), as far as the image goes."""
    filtered = image.copy()
    for offset in range(1, reach + 1):
        combine(filtered[offset:], image[:-offset], out=filtered[offset:])
        combine(filtered[:-offset], image[offset:], out=filtered[:-offset])
    rows = filtered.copy()
    for offset in range(1, reach + 1):
        combine(filtered[:, offset:], rows[:, :-offset], out=filtered[:, offset:])
        combine(filtered[:, :-offset], rows[:, offset:], out=filtered[:, :-offset])
    return filtered
