"""Edges of label maps whose pixels were blended: by compression, resampling, or smooth drawing.

Functions take and return rows of a palette, here called entries, (H, W).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

REACH = 3  # pixels between a blended pixel and the regions that it is a blend of
FAR_REACH = 9  # pixels to the regions that a thin region may be a blend of
SMOOTH_RANGE = 24  # largest difference in a channel, of 255, among the 3 x 3 pixels inside a region
THIN_DISTANCE = 12.0  # of 255, from its entry, of a pixel that can be a region one or two pixels wide
MIXED_DISTANCE = 24.0  # of 255, of a pixel from a blend of two colors
BLENDS = np.linspace(-0.25, 1.25, 31)  # fractions of the second of two colors; sharp filters go beyond 0 and 1
OVERSHOOTS = np.append(BLENDS[BLENDS < 0], BLENDS[BLENDS > 1])
DEEP_REACH = 2  # sure pixels around a pixel deep inside a region
NEARLY_EXACT = 4.0  # of 255, from its entry, of the pixels of a real region in a resampled map
SPECK_FRACTION = 5e-5  # of the image's pixels: a smaller region is a speck
SMALLEST_REGION = 4  # pixels, in images of any size
# Of grey indices: the fraction of edge pixels with a level between those of the regions beside them. Clean maps of
# faces have up to 0.06, resampled and compressed ones 0.12 and more.
MAX_BETWEEN = 0.1
FEWEST_BETWEEN = 24  # pixels
LEAST_SURE = 0.25  # fraction of the image inside regions; other images are noise, which has no edges
LEAST_SIDE = 64  # pixels of an image that still shows the regions of a face


def measure_range(pixels: np.ndarray) -> np.ndarray:
    """Largest difference in a channel among the 3 x 3 pixels around each pixel, of (H, W, 3) uint8: (H, W)."""
    span = filter_square(np.maximum, pixels, 1) - filter_square(np.minimum, pixels, 1)
    return np.maximum(np.maximum(span[..., 0], span[..., 1]), span[..., 2])


def is_blended(levels: np.ndarray) -> bool:
    """Whether indices (H, W) that grey levels show were blended, at this size or before an enlargement."""
    strides = [stride for stride in (1, 2, 4) if stride == 1 or min(levels.shape) >= stride * LEAST_SIDE]
    return any(measure_between(levels[::stride, ::stride]) > MAX_BETWEEN for stride in strides)


def measure_between(levels: np.ndarray) -> float:
    """Of the pixels between regions (H, W) with other levels between them, the fraction that has such a level."""
    sure = filter_square(np.maximum, levels, 1) == filter_square(np.minimum, levels, 1)
    if sure.mean() < LEAST_SURE:
        return 0.0
    high = filter_square(np.maximum, np.where(sure, levels, 0), REACH)
    low = filter_square(np.minimum, np.where(sure, levels, 255), REACH)
    edges = ~sure & (high > low) & (high - low >= 2)
    y, x = np.nonzero(edges & (levels > low) & (levels < high))
    alone = ~_find_near(levels, sure, REACH, (y, x))[np.arange(len(y)), levels[y, x]]
    return alone.sum() / edges.sum() if alone.sum() >= FEWEST_BETWEEN else 0.0


def repair_edges(
    pixels: np.ndarray, entries: np.ndarray, distance: np.ndarray, colors: np.ndarray, tolerance: float,
    keep_specks: bool,
) -> np.ndarray:
    """Gives each pixel at an edge the entry of a region near it.

    pixels: (H, W, 3) uint8. entries: (H, W), the nearest entry of each pixel. distance: (H, W), how far the entry is.
    colors: (N, 3), the colors of the entries. tolerance: distance within which a pixel belongs to its entry.

    A pixel is sure where it and its eight neighbors are smooth and of one entry, except in rings along other edges
    (`_find_rings`). Every other pixel takes the entry
    with the nearest color among the entries of sure pixels within `REACH`. Thin regions, which have no sure pixel,
    stay if their pixels are nearly exact and no blend of two regions around them. There, pixels that touch by a corner
    are connected. Specks take the entries of the regions around them, unless they are kept.
    """
    alike = filter_square(np.maximum, entries, 1) == filter_square(np.minimum, entries, 1)
    sure = alike & (distance <= tolerance) & (measure_range(pixels) <= SMOOTH_RANGE)
    sure &= ~_find_rings(entries, distance, colors, sure)
    if not sure.any():
        return entries
    y, x = np.nonzero(~sure)
    colors_here = pixels[y, x].astype(np.float32)  # (U, 3)
    near = _find_near(entries, sure, REACH, (y, x))[:, :len(colors)]  # (U, N)
    thin = _find_thin(entries, distance, colors, sure, (y, x), near)
    if not keep_specks:
        thin &= ~_find_small(entries, thin, np.ones((3, 3), dtype=bool))
    if thin.any():
        near |= _find_near(entries, thin, 1, (y, x))[:, :len(colors)]
    away = np.linalg.norm(colors_here[:, None] - colors[None].astype(np.float32), axis=-1)  # (U, N)
    away[~near] = np.inf
    repaired = entries.copy()
    repaired[y, x] = away.argmin(axis=-1)
    lost = np.zeros_like(sure)
    lost[y, x] = ~near.any(axis=-1)
    filled = fill_from_nearest(repaired, lost)
    return filled if keep_specks else remove_specks(filled)


def remove_specks(entries: np.ndarray) -> np.ndarray:
    """Fills connected regions of very few pixels from the regions around them."""
    specks = _find_small(entries, np.ones_like(entries, dtype=bool), ndimage.generate_binary_structure(2, 1))
    return fill_from_nearest(entries, specks)


def fill_from_nearest(entries: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The entries with every pixel of the region (H, W) copied from the nearest pixel outside the region."""
    if not region.any() or region.all():
        return entries
    rim = np.argwhere(filter_square(np.logical_or, region, 1) & ~region)  # (R, 2)
    _, nearest = KDTree(rim).query(np.argwhere(region))
    filled = entries.copy()
    filled[region] = entries[tuple(rim[nearest].T)]
    return filled


def _find_near(entries: np.ndarray, region: np.ndarray, reach: int, places: tuple) -> np.ndarray:
    """Which entries the region has within the reach of each of the U pixels at `places`: (U, 32)."""
    bits = np.where(region, np.uint32(1) << entries.astype(np.uint32), np.uint32(0))  # (H, W), a bit for each entry
    found = filter_square(np.bitwise_or, bits, reach)[places]
    return (found[:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(bool)


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
    around = _find_near(entries, sure, FAR_REACH, rows)[:, :len(colors)]  # (len(chosen), N)
    # At the image's border, the background that a pixel is a blend with may lie outside.
    around[:, 0] |= is_at_border(*rows, entries.shape)
    thin[rows] = ~_find_blends(entries[rows], around, colors, BLENDS)
    return thin


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


def _find_rings(entries: np.ndarray, distance: np.ndarray, colors: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Sure pixels (H, W) of thin regions in a color that sharp filters make beside the edge of two other regions.

    Grey levels lie so close that such a color can be an entry exactly; in other palettes it is only near one.
    """
    deep = ~filter_square(np.logical_or, ~sure, DEEP_REACH)
    is_gray = (colors == colors[:, :1]).all()
    y, x = np.nonzero(sure & ~filter_square(np.logical_or, deep, DEEP_REACH) & (is_gray | (distance > NEARLY_EXACT)))
    around = _find_near(entries, deep, FAR_REACH, (y, x))[:, :len(colors)]  # (U, N)
    rings = np.zeros_like(sure)
    rings[y, x] = _find_blends(entries[y, x], around, colors, OVERSHOOTS)
    return rings


def _find_blends(entries: np.ndarray, around: np.ndarray, colors: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Which of U pixels have an entry (U,) that could be a blend of two other regions `around` (U, N): (U,).

    fractions: of the second of two colors.
    """
    around[np.arange(len(entries)), entries] = False
    cases, case = np.unique(np.column_stack([entries, around]), axis=0, return_inverse=True)
    blends = [_is_blend(colors, entry, np.flatnonzero(regions), fractions) for entry, *regions in cases.astype(int)]
    return np.array(blends, dtype=bool)[case.ravel()]


def _is_blend(colors: np.ndarray, entry: int, regions: np.ndarray, fractions: np.ndarray) -> bool:
    """Whether the color of an entry is near a blend of two of the regions."""
    first = colors[regions].astype(float)[:, None, None]  # (R, 1, 1, 3)
    blends = first + fractions[:, None] * (colors[regions][:, None] - first)  # (R, R, V, 3)
    others = ~np.eye(len(regions), dtype=bool)
    away = np.linalg.norm(blends.clip(0, 255) - colors[entry], axis=-1)[others]  # (R * (R - 1), V)
    return bool((away <= MIXED_DISTANCE).any())


def filter_square(combine: np.ufunc, image: np.ndarray, reach: int) -> np.ndarray:
    """Combines the (2 reach + 1) x (2 reach + 1) pixels around each pixel of (H, W, ...), as far as the image goes.

    `combine` is idempotent, such as a maximum: windows that overlap make a wider one.
    """
    return _filter_rows(combine, _filter_rows(combine, image, reach).swapaxes(0, 1), reach).swapaxes(0, 1)


def _filter_rows(combine: np.ufunc, image: np.ndarray, reach: int) -> np.ndarray:
    """Combines the 2 reach + 1 rows around each row of (H, W, ...)."""
    filtered = image
    covered = 0  # rows on each side
    while covered < reach:
        step = min(covered + 1, reach - covered)
        wider = filtered.copy(order="K")
        combine(wider[step:], filtered[:-step], out=wider[step:])
        combine(wider[:-step], filtered[step:], out=wider[:-step])
        filtered = wider
        covered += step
    return filtered
