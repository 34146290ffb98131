"""Images and label maps, from files to tensors of one size."""
from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ..labelmap import PALETTE, find_entries, resize_nearest, to_indices

Size = tuple[int, int]  # height, width


def inspect_image(file: Path) -> Size:
    """Size of a complete image file. Raises ValueError if the file is missing or cut off.

    A JPEG is decoded at an eighth of its size, of any other format the checksums are read. Both cost a fraction of
    decoding the whole image.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        with Image.open(file) as image:
            width, height = image.size
            if image.format == "JPEG":
                image.draft("L", (width // 8, height // 8))
                image.load()
            else:
                image.verify()
    except Exception as error:  # each decoder raises errors of its own
        raise ValueError(f"{file} cannot be read ({error})") from error
    return height, width


def read_image(file: Path | io.BytesIO) -> Tensor:
    """An image as (3, H, W) uint8 in RGB."""
    with Image.open(file) as image:
        return v2.functional.pil_to_tensor(image.convert("RGB"))


def read_labels(file: Path | io.BytesIO, order: tuple[int, ...]) -> Tensor:
    """A label map as (H, W) uint8 in CelebAMask-HQ order.

    file: grey levels k for the k-th class, CelebAMask-HQ colours, or a palette image of either.
    order: the class of each k; in colours, k is the row in the palette.
    Raises ValueError for values without a class and for an image in other colours.
    """
    with Image.open(file) as image:
        rows = find_label_rows(image)  # (H, W)
    if rows.max() >= len(order):
        raise ValueError(f"label values up to {rows.max()}, there are classes for 0 to {len(order) - 1}")
    return torch.tensor(order, dtype=torch.uint8)[torch.from_numpy(rows.astype(np.int64))]


def find_label_rows(image: Image.Image) -> np.ndarray:
    """Each pixel's row in the palette, or grey level, (H, W)."""
    if image.mode == "P":
        return find_palette_rows(np.asarray(image), np.array(image.getpalette("RGB")).reshape(-1, 3))
    if image.mode not in ("1", "L", "LA", "I", "I;16"):
        colors = np.array(image.convert("RGB"))  # (H, W, 3)
        if (colors != colors[..., :1]).any():
            return to_indices(torch.from_numpy(colors)[None] / 255)[0].numpy()
        return colors[..., 0]
    return np.asarray(image.getchannel(0))


def find_palette_rows(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Label rows of a palette image. Programs renumber palettes, so known colours decide before the numbers do."""
    used = np.unique(indices)
    if used.max() >= len(palette):
        return indices
    colors = [tuple(color) for color in palette[used].tolist()]
    rows = find_entries(colors)
    if rows is None and all(len(set(color)) == 1 for color in colors):
        rows = [color[0] for color in colors]
    if rows is None:
        return indices
    table = np.zeros(256, np.uint8)
    table[used] = rows
    return table[indices]


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
