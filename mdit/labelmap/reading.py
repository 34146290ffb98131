"""From label-map images in any palette to class indices, with a test whether the palette can be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .classes import DISPLAY_NAMES
from .edges import filter_square, is_blended, measure_range, repair_edges
from .palettes import AUTO, DEFAULT_ORDER, DEFAULT_PALETTE, ORDERS, PALETTES, Color
from .tables import Table, list_tables, make_table

# Blended edges and compression leave a few per cent of odd colors in a good map; a photograph or a map in
# another palette has most of its pixels far off.
MAX_FAR_FRACTION = 0.10
# Flat areas have no blended edges: there, less than one pixel in 200 may have a color of no entry.
MAX_FOREIGN_FRACTION = 0.005
FLAT_RANGE = 8  # largest difference in a channel, of 255, among the 3 x 3 pixels of a flat area
FLAT_REACH = 2  # pixels around a flat pixel that are flat, too, in an area that is no ring along an edge
LEAST_WHITE = 0.2  # of what is not black in a mask: thin lines are mostly smooth edges
FEWEST_FLAT = 64  # pixels; smaller areas say nothing about the palette
# Distance, of 255, at which a color still counts as an entry of a color palette: lossless and compressed images.
EXACT_DISTANCE = 1.5
CLOSE_DISTANCE = 12.0
KNOWN_FRACTION = 0.98  # of the flat pixels, which the entries of a recognized palette must explain
LEAST_SHOWN = 0.001  # fraction of the image that must be no background
MOST_COLORS = 1000  # the commonest colors of an image, which tell its palette
MOST_AMBIGUOUS = 3  # entries of a map that can have another meaning in another palette
SIXTEEN_BIT = 65535
STENCIL = ("the image is black and white only, so it is a mask of one class and not a label map. Connect it "
           "to 'Masks to Label Map' as a mask, and name the class there.")
BLENDED = ("the image has grey indices that were blended at the edges, by resizing or compression: a level between "
           "two classes is a third class. Resize label maps by nearest neighbour (nearest-exact), and save them as "
           "PNG.")


class Colors(NamedTuple):
    """The distinct colors of an image.

    values: (U, 3) 8-bit RGB. pixel: (H, W), the row in `values` of each pixel. counts: (U,) pixels of each color.
    """
    values: np.ndarray
    pixel: np.ndarray
    counts: np.ndarray


class Reading(NamedTuple):
    """What was read from label-map images.

    indices: (B, H, W) uint8 in CelebAMask-HQ order, on the device of the image.
    notes: sentences for the user: the palette that "auto" found, and classes that could not be mapped.
    """
    indices: torch.Tensor
    notes: list[str]


def to_indices(image: torch.Tensor, palette: str = DEFAULT_PALETTE, order: str = DEFAULT_ORDER) -> torch.Tensor:
    """Class indices (B, H, W) of label-map images: the first field of `read_label_maps`."""
    return read_label_maps(image, palette, order).indices


def read_label_maps(
    image: torch.Tensor, palette: str = DEFAULT_PALETTE, order: str = DEFAULT_ORDER, keep_specks: bool = False,
) -> Reading:
    """Class indices of label-map images, with a pixel of a blended edge in the class of a region next to it.

    image: (B, H, W, 3) in 0..1 of any float type; a fourth channel is ignored.
    palette: a key of PALETTES, or AUTO. order: a key of ORDERS, the class order of the palette's entries.

    Images whose pixels are all nearest to their entry without doubt are read pixel by pixel. In all others, edges
    are repaired and, unless `keep_specks`, specks removed (`edges`). Grey images of 16 bit with the levels 0, 1, 2, ...
    are read as indices.

    A pixel is far when its nearest entry is further away than the two closest entries of the palette are from each
    other (51 of 255 for "colours"): such a color could belong to another class.
    Raises ValueError for a wrong shape, a value that is not finite, over 10 % far pixels, flat areas in colors that
    are no entry, an image that another known palette explains better, blended indices, and, with AUTO, an image that
    no palette explains.
    """
    check_image(image)
    images = image[..., :3].detach().cpu().float().clamp(0, 1).numpy()  # (B, H, W, 3)
    notes: list[str] = []
    indices = []
    for one in images:
        labels, told = _read_one(one, palette, order, keep_specks)
        indices.append(labels)
        notes += [note for note in told if note not in notes]
    return Reading(torch.from_numpy(np.stack(indices)).to(image.device), notes)


def check_image(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"label_map: expected images of shape (batch, height, width, 3), got {shape}.")
    if 0 in shape:
        raise ValueError(f"label_map: the batch is empty, shape {shape}. Connect at least one image.")
    if not image.sum(dtype=torch.float64).isfinite():
        raise ValueError("label_map: the image has NaN or infinite values. Check the node that made the image.")


def find_entries(colors: Sequence[Color], palette: str = DEFAULT_PALETTE) -> list[int] | None:
    """Entry of a palette that each color is exactly; None if the palette lacks one of the colors."""
    entries = {color: k for k, color in enumerate(PALETTES[palette].colors)}
    return [entries[color] for color in colors] if all(color in entries for color in colors) else None


def read_rows(pixels: np.ndarray) -> tuple[np.ndarray, str | None]:
    """The palette's rows (H, W) of a label-map image (H, W, 3) uint8 in any known colors, repaired as nodes do.

    Returns the rows, and a key of ORDERS if the colors come with a class order of their own.
    Raises ValueError, as `read_label_maps` does, for an image in no known colors.
    """
    colors = count_colors(_encode(pixels))
    found = recognize(colors.values, _count_for_choice(pixels, colors), DEFAULT_ORDER, colors.counts)
    table = found or make_table(DEFAULT_PALETTE, DEFAULT_ORDER)
    return _find_entries(pixels, colors, table, found is not None), table.own_order


def recognize_colors(colors: Sequence[Color]) -> tuple[list[int], str | None] | None:
    """Rows of exact colors in one known table, and the key of its own order, if any; None if no table has them all."""
    values = np.array(colors)
    once = np.ones(len(values))
    table = recognize(values, once, DEFAULT_ORDER, once)
    if table is None:
        return None
    nearest, distance = find_nearest(values, table.colors)
    if distance.any():
        return None
    return nearest.tolist(), table.own_order


def _read_one(image: np.ndarray, palette: str, order: str, keep_specks: bool) -> tuple[np.ndarray, list[str]]:
    """Class indices (H, W) of an image (H, W, 3) in 0..1, and notes."""
    if _is_sixteen_bit(image):
        return _read_sixteen_bit(image, palette, order)
    pixels = torch.from_numpy(image).mul(255).round_().byte().numpy()
    codes = _encode(pixels)
    notes: list[str] = []
    if palette != AUTO:
        table = make_table(palette, order)
        entries = find_exact(codes, table.colors)
        if entries is not None:
            _check_blended(entries, table)
            return map_entries(entries, table, notes)
    colors = count_colors(codes)
    if palette == AUTO:
        table = _choose_table(pixels, colors, order)
        notes = [describe_table(table)]
    entries = _find_entries(pixels, colors, table, palette == AUTO, keep_specks)
    if table.name == "index picture" and find_exact(codes, table.colors) is None:
        notes.append("The grey levels of the label map were blended at the edges, by resizing or compression, and "
                     "repaired. Narrow areas may be wrong: resize label maps by nearest neighbour, and save them as "
                     "PNG.")
    return map_entries(entries, table, notes)


def _find_entries(
    pixels: np.ndarray, colors: Colors, table: Table, is_found: bool, keep_specks: bool = False,
) -> np.ndarray:
    """The table's entries (H, W) of pixels (H, W, 3) uint8.

    is_found: whether the table was found from the image, not chosen. Raises ValueError if the table does not fit.
    """
    nearest, distance = find_nearest(colors.values, table.colors)
    _check_palette(pixels, colors, table, is_found, nearest, distance)
    entries = nearest.astype(np.uint8)[colors.pixel]
    _check_blended(entries, table)
    if (distance > table.tolerance).any():
        away = distance[colors.pixel]  # (H, W)
        entries = repair_edges(pixels, entries, away, table.colors, table.tolerance, keep_specks)
        _check_loss(nearest[colors.pixel], entries, table)
    return entries


def map_entries(entries: np.ndarray, table: Table, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Class indices (H, W) of entries (H, W), and notes with more where the reading is in doubt or loses areas."""
    classes, unmapped = np.array(ORDERS[table.order].classes, np.uint8), ORDERS[table.order].unmapped
    counts = np.bincount(entries.ravel(), minlength=len(classes))
    shown = np.flatnonzero(counts)
    notes = notes + (_warn_of_stencil(shown, table) or _warn_of_others(shown, table))
    lost = [f"{name} ({counts[k] / entries.size:.1%})" for k, name in unmapped.items() if counts[k]]
    if lost:
        notes.append(f"No class fits these areas, so they became background: {', '.join(lost)}.")
    faces = counts[:len(classes)][classes > 0].sum() / entries.size
    if faces < LEAST_SHOWN:
        share = "alone" if faces == 0 else f"to {1 - faces:.2%}"
        notes.append(f"The label map is background {share}. If it should show a face, check the node that made it, "
                     "and the palette.")
    return classes[entries], notes


def _warn_of_others(shown: np.ndarray, table: Table) -> list[str]:
    """A note if the few colors of the shown entries have other meanings in another palette."""
    if not 2 <= len(shown) <= MOST_AMBIGUOUS:
        return []
    colors = table.colors[shown]
    names = _name_classes(shown, table)
    for other in list_tables(table.order):
        entries, distance = find_nearest(colors, other.colors)
        if not distance.any() and _name_classes(entries, other) != names:
            remedy = ("Choose that palette" if other.choice != AUTO else "Repaint them in palette colours")
            return [f'The colours of the label map were read as {names} in the palette "{table.name}". They also fit '
                    f'the palette "{other.name}", as {_name_classes(entries, other)}. {remedy} if the classes are '
                    "wrong."]
    return []


def _name_classes(entries: np.ndarray, table: Table) -> str:
    return ", ".join(DISPLAY_NAMES[ORDERS[table.order].classes[k]] for k in entries)


def find_exact(codes: np.ndarray, colors: np.ndarray) -> np.ndarray | None:
    """The entries (H, W) of an image whose pixels are exactly in the colors (N, 3), of two or more; None for others.

    codes: (H, W), from `_encode`.
    """
    known = _encode(colors.astype(np.uint8))  # (N,)
    order = known.argsort()
    place = np.searchsorted(known[order], codes).clip(max=len(colors) - 1)
    entries = order.astype(np.uint8)[place]
    if (known[entries] != codes).any():
        return None
    return entries if codes.size == 1 or (entries != entries.flat[0]).any() else None


def count_colors(codes: np.ndarray) -> Colors:
    """The distinct colors among the codes (H, W)."""
    found, pixel, counts = torch.from_numpy(codes).unique(return_inverse=True, return_counts=True)
    values = torch.stack([found >> 16, found >> 8 & 255, found & 255], dim=-1)  # (U, 3)
    return Colors(values.numpy(), pixel.numpy(), counts.numpy())


def _encode(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> (...) int32, one number for each color."""
    red, green, blue = torch.from_numpy(np.ascontiguousarray(colors)).int().unbind(-1)
    return (red << 16 | green << 8 | blue).numpy()


def find_nearest(values: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of `colors` (N, 3) to each of the values (U, 3), and its distance: (U,), (U,)."""
    # The matrix-product form of the distance is too inexact to compare with a bound.
    distances = torch.cdist(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(colors.astype(np.float32)),
                            compute_mode="donot_use_mm_for_euclid_dist")  # (U, N)
    distance, nearest = distances.min(dim=-1)
    return nearest.numpy(), distance.numpy()


# Does the palette fit?

def recognize(values: np.ndarray, counts: np.ndarray, order: str, every: np.ndarray) -> Table | None:
    """The kind of image whose flat areas have these colors (U, 3) on these numbers of pixels (U,); None for none.

    every: (U,), the pixels of each color in the whole image.
    Of several kinds, the one with most pixels exactly in an entry, then with most of the whole image if several entries
    are shown, then the first of the list. The colors of other programs must be at least three: any two colors are in
    some table.
    """
    best, score = None, (0.0, -1)
    commonest = np.argsort(-counts - every, kind="stable")[:MOST_COLORS]
    values, counts, every = values[commonest], counts[commonest], every[commonest]
    for table in list_tables(order):
        nearest, distance = find_nearest(values, table.colors)
        is_close = distance <= min(CLOSE_DISTANCE, table.tolerance)
        exact = counts[distance <= _exact_distance(table)].sum() / counts.sum()
        is_known = counts[is_close].sum() >= KNOWN_FRACTION * counts.sum()
        shown = _count_entries(nearest, counts)
        found = round(exact, 2), every[is_close].sum() if shown > 1 else 0
        if is_known and found > score and (table.choice != AUTO or shown >= 3):
            best, score = table, found
    return best


def _count_entries(nearest: np.ndarray, counts: np.ndarray) -> int:
    """How many entries have a share of the pixels that is no noise."""
    return int((np.bincount(nearest, counts) >= max(1, 0.001 * counts.sum())).sum())


def _exact_distance(table: Table) -> float:
    return min(EXACT_DISTANCE, table.tolerance)


def _find_flat(pixels: np.ndarray, colors: Colors) -> np.ndarray:
    """How many pixels of each color (U,) lie in flat areas."""
    flat = measure_range(pixels) <= FLAT_RANGE  # (H, W)
    return np.bincount(colors.pixel[flat], minlength=len(colors.values))


def _count_for_choice(pixels: np.ndarray, colors: Colors) -> np.ndarray:
    """How many pixels of each color (U,) lie in flat areas, or anywhere if hardly any area is flat."""
    counts = _find_flat(pixels, colors)
    return counts if counts.sum() >= FEWEST_FLAT else colors.counts


def _choose_table(pixels: np.ndarray, colors: Colors, order: str) -> Table:
    """The kind of an image for "auto". Raises ValueError if no palette explains it."""
    counts = _count_for_choice(pixels, colors)
    if _is_stencil(colors, counts):
        raise ValueError(f"label_map: {STENCIL}")
    table = recognize(colors.values, counts, order, colors.counts)
    if table is None:
        raise ValueError(f"label_map: the image fits no known palette, {_describe_levels(colors, counts)}. Choose the "
                         "palette of the label map, or repaint the areas in palette colours. For a photograph, "
                         "connect 'Parse Face' before this node.")
    spread = make_table("index picture", order)
    is_spread = table.name == "grey indices" and not find_nearest(colors.values[counts > 0], spread.colors)[1].any()
    return spread if is_spread else table


def describe_table(table: Table) -> str:
    return f'The label map was read as "{table.name}", class order "{table.order}".'


def is_stencil(pixels: np.ndarray) -> bool:
    """Whether an image (H, W, 3) uint8 is a mask in white, on black where there is another color."""
    colors = count_colors(_encode(pixels))
    return _is_stencil(colors, _count_for_choice(pixels, colors))


def _is_stencil(colors: Colors, flat: np.ndarray) -> bool:
    """Whether the colors are grey, all flat areas black or white, and the rest mostly edges of white.

    flat: (U,), pixels of each color in flat areas.
    """
    dark, bright = colors.values.max(axis=-1) <= 4, colors.values.min(axis=-1) >= 251  # (U,), (U,)
    gray = np.ptp(colors.values.astype(int), axis=-1).max() <= 4
    white = colors.counts[bright].sum()
    return bool(gray and (dark | bright)[flat > 0].all() and white > LEAST_WHITE * colors.counts[~dark].sum())


def _warn_of_stencil(shown: np.ndarray, table: Table) -> list[str]:
    """A note if an image in the palette "index picture" shows the entries black and white only."""
    if table.name != "index picture" or set(table.colors[shown].flatten().tolist()) != {0, 255}:
        return []
    names = [DISPLAY_NAMES[ORDERS[table.order].classes[k]] for k in shown]
    return [f"The label map is black and white only: it was read as {names[0]} and {names[1]}. A mask of another class "
            "belongs into 'Masks to Label Map'."]


def _describe_levels(colors: Colors, counts: np.ndarray) -> str:
    """What the commonest colors look like."""
    if (colors.values == colors.values[:, :1]).all():
        return f"its grey levels go up to {colors.values.max()}"
    return f"its commonest colours are {_sample(colors.values, counts)} as (r, g, b)"


def _sample(values: np.ndarray, counts: np.ndarray) -> str:
    commonest = values[np.argsort(-counts, kind="stable")[:2]]  # (<= 2, 3)
    return " and ".join(str(tuple(color)) for color in commonest.tolist())


def _check_palette(
    pixels: np.ndarray, colors: Colors, table: Table, is_found: bool, nearest: np.ndarray, distance: np.ndarray,
) -> None:
    """Refuses an image that is not in the palette. A palette found from the flat areas fits, whatever the edges are.

    nearest, distance: (U,), (U,), the nearest entry of each color.
    """
    shown = np.unique(nearest)
    if (distance <= _exact_distance(table)).all() and (len(shown) > 1 or len(colors.values) == 1):
        return
    flat = _find_flat(pixels, colors)  # (U,)
    told = flat.sum() >= FEWEST_FLAT
    other = _describe_other(colors, flat, table, distance) if told else None
    if not is_found:
        _check_far(colors, distance > table.gap, table.name, other)
    if other is not None:
        raise ValueError(f"label_map: {other}")
    if told:
        _check_foreign(pixels, colors, table, distance)
        _check_background(colors, flat, table, nearest)


def _describe_other(colors: Colors, flat: np.ndarray, table: Table, distance: np.ndarray) -> str | None:
    """What the image is, if another kind explains its flat areas better than the chosen table; else None.

    flat: (U,), pixels of each color in flat areas. distance: (U,), from the table.
    """
    values = colors.values
    if table.name != "index picture" and _is_stencil(colors, flat):
        return STENCIL
    explained = flat[distance <= min(CLOSE_DISTANCE, table.tolerance)].sum() / flat.sum()
    exact = flat[distance <= _exact_distance(table)].sum() / flat.sum()
    if min(explained, exact) >= 1 - MAX_FOREIGN_FRACTION:
        return None
    other = recognize(values, flat, table.order, colors.counts)
    if other is None or other.name == table.name:
        return None
    nearest, other_distance = find_nearest(values, other.colors)
    if _count_entries(nearest, flat) < 2:
        return None
    other_exact = flat[other_distance <= _exact_distance(other)].sum() / flat.sum()
    if explained >= 1 - MAX_FOREIGN_FRACTION and exact >= other_exact - MAX_FOREIGN_FRACTION:
        return None
    return (f'the image is in the colours "{other.name}", not in the palette "{table.name}". '
            f'Choose the palette "{other.choice}".')


def _check_far(colors: Colors, far: np.ndarray, palette: str, other: str | None) -> None:
    """far: (U,), which colors are far from every entry. other: what the image is, if that is known."""
    fraction = colors.counts[far].sum() / colors.counts.sum()
    if fraction > MAX_FAR_FRACTION:
        samples = _sample(colors.values[far], colors.counts[far])
        remedy = ("Choose the palette of the label map, or repaint these areas in palette colours. For a photograph, "
                  "connect 'Parse Face' before this node.")
        raise ValueError(
            f'label_map: {fraction:.0%} of the pixels are far from every entry of the palette "{palette}", for '
            f"example {samples} as (r, g, b). {other[0].upper() + other[1:] if other else remedy}")


def _check_foreign(pixels: np.ndarray, colors: Colors, table: Table, distance: np.ndarray) -> None:
    """Refuses flat areas, 7 pixels wide and wider, in colors of no entry. Narrower ones are rings along edges."""
    foreign = (distance > table.tolerance)[colors.pixel] & (measure_range(pixels) <= FLAT_RANGE)  # (H, W)
    inner = ~filter_square(np.logical_or, ~foreign, FLAT_REACH)
    counts = np.bincount(colors.pixel[foreign & filter_square(np.logical_or, inner, FLAT_REACH)],
                         minlength=len(colors.values))  # (U,)
    fraction = counts.sum() / colors.counts.sum()
    if fraction > MAX_FOREIGN_FRACTION and counts.sum() >= FEWEST_FLAT:
        raise ValueError(
            f'label_map: flat areas, {fraction:.1%} of the pixels, have colours that are no entry of the palette '
            f'"{table.name}", for example {_sample(colors.values[counts > 0], counts[counts > 0])} as (r, g, b). '
            'Choose the palette of the label map ("auto" tries all), or repaint these areas in palette colours.')


def _check_background(colors: Colors, flat: np.ndarray, table: Table, nearest: np.ndarray) -> None:
    background = np.array(ORDERS[table.order].classes)[nearest] == 0  # (U,)
    others = colors.counts[~background].sum() / colors.counts.sum()
    hidden = background & (colors.values.max(axis=-1) >= 6) & (flat > 0) & (table.colors[nearest].max(axis=-1) == 0)
    if others < 0.001 and flat[hidden].sum() > max(FEWEST_FLAT, 0.01 * colors.counts.sum()):
        raise ValueError(
            f'label_map: read in the palette "{table.name}", the image would be background alone, but it has dark '
            f"areas such as {_sample(colors.values[hidden], flat[hidden])} as (r, g, b). If the pixels are class "
            'indices, choose the palette "grey indices", and save them without compression.')


def _check_loss(nearest: np.ndarray, entries: np.ndarray, table: Table) -> None:
    """Refuses an image of which the repair of its edges left background alone. Both are entries (H, W)."""
    classes = np.array(ORDERS[table.order].classes)
    lost = (classes[nearest] != 0).mean()
    if lost > 0.01 and not classes[entries].any():
        raise ValueError(
            f'label_map: read in the palette "{table.name}", the image would be background alone, but {lost:.0%} of '
            "the pixels, in lines too thin to have a colour of their own, are something else. Save it larger, or "
            "without smooth edges.")


# Class indices

def _is_sixteen_bit(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) in 0..1 is grey, with levels up to 255 of 65535 and none above."""
    brightest = image.max() * SIXTEEN_BIT
    if not 0.9 < brightest < 255.5:
        return False
    return bool((image == image[..., :1]).all())


def _check_blended(entries: np.ndarray, table: Table) -> None:
    if table.choice == "grey indices" and is_blended(entries):
        raise ValueError(f"label_map: {BLENDED}")


def _read_sixteen_bit(image: np.ndarray, palette: str, order: str) -> tuple[np.ndarray, list[str]]:
    levels = image[..., 0] * SIXTEEN_BIT  # (H, W)
    entries = levels.round().astype(np.int64)
    classes = len(ORDERS[order].classes)
    if palette not in (AUTO, "grey indices"):
        raise ValueError(f"label_map: the image has class indices of 16 bit, the grey levels 0 to {entries.max()} of "
                         '65535. Choose the palette "grey indices".')
    if entries.max() >= classes:
        raise ValueError(f"label_map: the image has class indices of 16 bit up to {entries.max()}, but the class order "
                         f'"{order}" ends at {classes - 1}. Choose the class order of the label map.')
    table = make_table("grey indices", order)
    if np.abs(levels - entries).max() > 0.1:
        raise ValueError(f"label_map: {BLENDED}")
    _check_blended(entries, table)
    notes = [f'The label map was read as "grey indices" of 16 bit, class order "{order}".']
    return map_entries(entries, table, notes)
