"""Images and label maps, from files to tensors of one size."""
from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from ..labelmap import ORDERS, PALETTE, find_entries, read_rows, recognize_colors, resize_nearest
from ..labelmap.files import check_levels
from .decoding import DEEP_GRAY, Size, check_picture, open_image, open_rgb

GREY_MODES = ("1", "L", "LA", *DEEP_GRAY, "F")  # the pixels are numbers


def read_image(file: Path | io.BytesIO) -> Tensor:
    """An image as (3, H, W) uint8 in RGB, upright and in sRGB. Transparent pixels are white."""
    return v2.functional.pil_to_tensor(open_rgb(file))


def read_labels(file: Path | io.BytesIO, order: tuple[int, ...]) -> Tensor:
    """A label map as (H, W) uint8 in CelebAMask-HQ order.

    file: grey levels k for the k-th class, of 8 or 16 bit; grey levels that spread the classes from black to white;
        known colours, CelebAMask-HQ's or another program's; or a palette image of any of these. Alpha is ignored.
    order: the class of each k; in CelebAMask-HQ colours, k is the row in the palette. Colours of a program with a class
        order of its own have that order.
    The EXIF orientation is applied.
    Raises ValueError for values without a class, an image in other colours, a mask in black and white, class indices in
    a JPEG, which has changed them, levels below 256 in colors of 16 bit, and an animation.
    """
    with open_image(file) as image:
        check_picture(image)
        check_levels(image)
        rows, own_order = find_label_rows(ImageOps.exif_transpose(image), image.format, len(order))  # (H, W)
    if own_order is not None:
        order = ORDERS[own_order].classes
    if rows.max() >= len(order):
        raise ValueError(f"label values up to {rows.max()}, there are classes for 0 to {len(order) - 1}")
    return torch.tensor(order, dtype=torch.uint8)[torch.from_numpy(rows.astype(np.int64))]


def read_part(file: Path) -> Tensor:
    """Where a file of one class is bright, (H, W) bool. Levels count from half of the brightest; alpha is ignored."""
    with open_image(file) as image:
        check_picture(image)
        upright = ImageOps.exif_transpose(image)
    levels = np.asarray(upright if upright.mode in DEEP_GRAY else upright.convert("RGB").convert("L")).astype(np.int64)
    return torch.from_numpy(2 * levels > levels.max())


def find_label_rows(image: Image.Image, form: str, count: int) -> tuple[np.ndarray, str | None]:
    """Each pixel's row in the palette, or class index, (H, W), and the key in ORDERS of an order that the colours have.

    form: the file's format. count: the number of classes, which tells indices from levels that spread the classes.
    """
    if image.mode == "P":
        return find_palette_rows(np.asarray(image), np.array(image.getpalette("RGB")).reshape(-1, 3), count)
    if image.mode not in GREY_MODES:
        colors = np.array(image.convert("RGB"))  # (H, W, 3)
        if (colors != colors[..., :1]).any():
            return read_rows(colors)
        levels = colors[..., 0]
    else:
        levels = np.asarray(image.getchannel("L") if image.mode == "LA" else image)
    if form in ("JPEG", "MPO"):
        raise ValueError("class indices as a JPEG, which changes them: save them as PNG")
    return spread_rows(levels) if levels.max() >= count else levels, None


def spread_rows(levels: np.ndarray) -> np.ndarray:
    """Rows of the palette "index picture" where all grey levels (H, W) are its levels, else the levels themselves."""
    used = np.unique(levels)
    if used.tolist() == [0, 255]:
        raise ValueError("black and white only: a mask of one class, not a label map")
    rows = find_entries([(level, level, level) for level in used.tolist()], "index picture")
    return levels if rows is None else np.array(rows)[np.searchsorted(used, levels)]


def find_palette_rows(indices: np.ndarray, palette: np.ndarray, count: int) -> tuple[np.ndarray, str | None]:
    """As `find_label_rows`, for a palette image. Programs renumber palettes: known colours decide before numbers do."""
    used = np.unique(indices)
    if used.max() >= len(palette):
        return indices, None
    colors = [tuple(color) for color in palette[used].tolist()]
    rows, own_order = find_entries(colors), None
    if rows is None and all(len(set(color)) == 1 for color in colors):
        levels = palette[:, 0][indices]
        return spread_rows(levels) if levels.max() >= count else levels, None
    if rows is None:
        rows, own_order = recognize_colors(colors) or (None, None)
    if rows is None:
        return indices, None
    return np.array(rows)[np.searchsorted(used, indices)], own_order


def encode_png(array: Tensor) -> bytes:
    """A PNG file of an image (3, H, W), or of a label map (H, W) as a palette image of its indices."""
    image = v2.functional.to_pil_image(array)
    if array.ndim == 2:
        image.putpalette(list(itertools.chain(*PALETTE)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def fit_to_size(image: Tensor, labels: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """An image (3, H, W) and its label map (h, w) of nearly the same aspect, resized to cover `size` and cut to it.

    Returns (3, *size) and (*size) uint8.
    """
    before = image.shape[1:]
    scale = max(after / side for after, side in zip(size, before))
    covering = [max(after, round(side * scale)) for after, side in zip(size, before)]
    if covering != list(before):
        image = v2.functional.resize(image, covering, v2.InterpolationMode.BICUBIC, antialias=True)
    labels = resize_nearest(labels[None], *covering)  # (1, *covering)
    return v2.functional.center_crop(image, size), v2.functional.center_crop(labels, size)[0]
