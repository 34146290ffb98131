"""Mutants of image files: of every mode, of any size, with headers that lie, cut and changed."""
from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from .values import mutate_bytes

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV", "PA", "RGBX", "La",
         "RGBa")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "ICO", "PPM", "TGA")
SIDES = (1, 2, 7, 64, 65, 512)
LIES = (0, 1, 2 ** 12 + 1, 2 ** 16, 2 ** 31 - 1)  # of a side in a header


def make_image(rng: random.Random) -> bytes:
    """A picture of a face's colours, of noise or of few levels, as a file, often a damaged one."""
    image = draw(rng).convert("RGB")
    mode = rng.choice(MODES)
    form = rng.choice(("PNG", "PNG", *FORMATS))
    content = save(convert(image, mode), form, rng) or save(image, form, rng)
    change = rng.randrange(4)
    if change == 0:
        return mutate_bytes(rng, content)
    return lie_about_size(rng, content) if change == 1 and form == "PNG" else content


def draw(rng: random.Random) -> Image.Image:
    width = rng.choice(SIDES)
    height = rng.choice(SIDES)
    colors = rng.choice((2, 19, 256))
    noise = np.random.default_rng(rng.randrange(2 ** 32)).integers(0, colors, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def convert(image: Image.Image, mode: str) -> Image.Image | None:
    try:
        return image.convert("L").convert(mode) if mode in ("I;16", "La") else image.convert(mode)
    except ValueError:
        return None


def save(image: Image.Image | None, form: str, rng: random.Random) -> bytes:
    """The image as a file, sometimes with further frames or odd tags; empty if the format has no such mode."""
    file = io.BytesIO()
    options = {}
    if image is not None and rng.random() < 0.2:
        options = {"save_all": True, "append_images": [image.rotate(90)] * 2}
    if rng.random() < 0.3:
        options["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + rng.randbytes(5)
    try:
        image.save(file, form, **options)
    except (AttributeError, KeyError, OSError, TypeError, ValueError, struct.error):
        return b""
    return file.getvalue()


def lie_about_size(rng: random.Random, content: bytes) -> bytes:
    """A PNG whose header tells of another size, with the right checksum."""
    header = bytearray(content[12:29])
    header[4:12] = struct.pack(">II", rng.choice(LIES), rng.choice(LIES))
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
