"""Label maps from image files, as the painter imports them. The pixels are read by `reading`, as in nodes."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from .classes import CLASSES
from .drawing import LONGEST_SIDE
from .palettes import AUTO, DEFAULT_ORDER, DEFAULT_PALETTE
from .reading import SIXTEEN_BIT, describe_table, is_stencil, read_label_maps
from .tables import make_table

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
NUMBERS = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # modes of more than 8 bit
OF_OURS = describe_table(make_table(DEFAULT_PALETTE, DEFAULT_ORDER))


class FileReading(NamedTuple):
    """What was read from a file.

    indices: (H, W) uint8 in CelebAMask-HQ order; of a stencil, 1 where it is white.
    notes: sentences for the user, without one on a label map in the pack's own colors.
    is_stencil: whether the file is a mask in black and white, which does not tell its class.
    """
    indices: torch.Tensor
    notes: list[str]
    is_stencil: bool


def read_file(file: BinaryIO) -> FileReading:
    """The label map of an image file: in colors, grey levels or a palette, of 8 or 16 bit. Alpha is ignored.

    Raises ValueError for other files, sides over 4096 pixels, animations, and what `read_label_maps` refuses.
    """
    image = _open_image(file)
    if image.mode != "P":
        return _read_pixels(_decode_pixels(image))
    try:
        return _read_pixels(_decode_pixels(image.convert("RGB")))
    except ValueError:
        numbers = np.asarray(image)
        if numbers.max() >= len(CLASSES):
            raise
        note = "Its colours are of no known palette, so its palette numbers were read as classes."
        return FileReading(torch.from_numpy(numbers.copy()), [note], is_stencil=False)


def _open_image(file: BinaryIO) -> Image.Image:
    """The decoded image, upright."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image)
            check_levels(image)
            return ImageOps.exif_transpose(image)
    except ValueError:
        raise
    except Exception as error:  # each decoder raises errors of its own
        known = ", ".join(FORMATS)
        raise ValueError(f"the file cannot be read as an image in the formats {known} ({error}).") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > LONGEST_SIDE:
        raise ValueError(f"the image has {width} x {height} pixels. A drawing has at most {LONGEST_SIDE} a side.")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the further images in a phone's JPEG are no frames
        raise ValueError(f"the file has {frames} frames or pages. Save one of them as an image of its own.")


def check_levels(image: Image.Image) -> None:
    """Raises ValueError for an opened file of colors in 16 bit whose levels are all below 256: Pillow drops them."""
    is_deep = image.mode not in NUMBERS and any(";16" in str(tile) for tile in image.tile)
    if is_deep and not np.asarray(image.convert("RGB")).any():
        raise ValueError("the image has channels of 16 bit, and levels below 256 alone, which are lost. Save it with "
                         "8 bit.")


def _decode_pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in 0..1."""
    if image.mode not in NUMBERS:
        return np.asarray(image.convert("RGB"), np.float32) / 255
    levels = np.asarray(image, np.float64)
    if levels.min() < 0 or levels.max() > SIXTEEN_BIT or (levels != levels.round()).any():
        raise ValueError(f"the image has levels from {levels.min():g} to {levels.max():g}. Save it with 8 or 16 bit.")
    deepest = SIXTEEN_BIT if levels.max() > 255 else 255  # files of 16 bit often hold levels of 8 bit
    return (levels / deepest).astype(np.float32)[..., None].repeat(3, axis=-1)


def _read_pixels(pixels: np.ndarray) -> FileReading:
    if is_stencil(np.round(pixels * 255).astype(np.uint8)):
        return FileReading(torch.from_numpy(pixels[..., 0] > 0.5).byte(), [], is_stencil=True)
    indices, notes = read_label_maps(torch.from_numpy(pixels)[None], AUTO)
    return FileReading(indices[0], [note for note in notes if note != OF_OURS], is_stencil=False)
