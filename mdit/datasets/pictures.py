"""Pictures and label maps, from files to tensors of one size."""
from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ..labelmap import PALETTE, find_entries, resize_nearest, to_indices

Size = tuple[int, int]  # height, width


def inspect_picture(file: Path) -> Size:
    """Size of a picture that is whole. Raises ValueError where it is not, or where the file is missing.

    A JPEG is decoded at an eighth of its size, of any other picture the checksums are read: both find a file that
    was cut off for a fraction of the cost of decoding it.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            if picture.format == "JPEG":
                picture.draft("L", (width // 8, height // 8))
                picture.load()
            else:
                picture.verify()
    except Exception as error:  # each decoder has its own kinds
        raise ValueError(f"{file} cannot be read ({error})") from error
    return height, width


def read_picture(file: Path | io.BytesIO) -> Tensor:
    """A picture as (3, H, W) uint8 in RGB."""
    with Image.open(file) as picture:
        return v2.functional.pil_to_tensor(picture.convert("RGB"))


def read_labels(file: Path | io.BytesIO, order: tuple[int, ...]) -> Tensor:
    """A label map as (H, W) uint8 in CelebAMask-HQ order.

    file: grey levels k for the k-th class, CelebAMask-HQ colours, or a palette picture of either.
    order: the class that each k stands for; in colours, k is the row in the palette.
    Raises ValueError for values without a class and for a picture in other colours.
    """
    with Image.open(file) as picture:
        rows = _read_rows(picture)  # (H, W)
    if rows.max() >= len(order):
        raise ValueError(f"label values up to {rows.max()}, there are classes for 0 to {len(order) - 1}")
    return torch.tensor(order, dtype=torch.uint8)[torch.from_numpy(rows.astype(np.int64))]


def _read_rows(picture: Image.Image) -> np.ndarray:
    if picture.mode == "P":
        return _read_indexed(np.asarray(picture), np.array(picture.getpalette("RGB")).reshape(-1, 3))
    if picture.mode not in ("1", "L", "LA", "I", "I;16"):
        colors = np.array(picture.convert("RGB"))  # (H, W, 3)
        if (colors != colors[..., :1]).any():
            return to_indices(torch.from_numpy(colors)[None] / 255)[0].numpy()
        return colors[..., 0]
    return np.asarray(picture.getchannel(0))


def _read_indexed(indices: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Label rows (H, W) of an indexed image and its color table (n, 3).

    Programs renumber color tables, so the colors count where they are label colors or gray levels.
    """
    used = np.unique(indices)
    if used.max() >= len(table):
        return indices
    colors = [tuple(color) for color in table[used].tolist()]
    rows = find_entries(colors)
    if rows is None and all(len(set(color)) == 1 for color in colors):
        rows = [color[0] for color in colors]
    if rows is None:
        return indices
    row_of = np.zeros(256, np.uint8)
    row_of[used] = rows
    return row_of[indices]


def png(array: Tensor) -> bytes:
    """A picture (3, H, W), or a label map (H, W) as a palette picture of its indices, as a PNG file."""
    picture = v2.functional.to_pil_image(array)
    if array.ndim == 2:
        picture.putpalette([level for colour in PALETTE for level in colour])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def fit(image: Tensor, labels: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) and its label map (h, w) of like aspect at one size, which they cover before the cut.

    Returns (3, *size) and (*size) uint8.
    """
    scale = max(side / was for side, was in zip(size, image.shape[1:]))
    whole = [max(side, round(was * scale)) for side, was in zip(size, image.shape[1:])]
    if whole != list(image.shape[1:]):
        image = v2.functional.resize(image, whole, v2.InterpolationMode.BICUBIC, antialias=True)
    labels = resize_nearest(labels[None], *whole)  # (1, *whole)
    return v2.functional.center_crop(image, size), v2.functional.center_crop(labels, size)[0]
