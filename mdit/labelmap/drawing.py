"""A label map as text, the form in which a graph saves the painter's drawing.

    labelmap1;512x640;eNrt...

Format version, width x height in pixels, and the classes row by row, one byte each, as base64 of a zlib stream.
`web/painter/codec.js` writes and reads the same text.
"""

from __future__ import annotations

import base64
import re
import zlib

import numpy as np
import torch

from .classes import CLASSES

VERSION = "labelmap1"
LONGEST_SIDE = 4096
_FORM = re.compile(rf"{VERSION};(\d{{1,5}})x(\d{{1,5}});([A-Za-z0-9+/]+={{0,2}})")


def encode_drawing(indices: torch.Tensor) -> str:
    """Text of a label map (H, W) uint8 in CelebAMask-HQ order."""
    height, width = indices.shape
    packed = base64.b64encode(zlib.compress(indices.numpy().tobytes(), 9))
    return f"{VERSION};{width}x{height};{packed.decode()}"


def decode_drawing(text: str) -> torch.Tensor:
    """Label map (H, W) uint8 of a text made by `encode_drawing` or by the painter.

    Unpacks at most one byte more than the announced number of pixels. Raises ValueError, which names the input
    `drawing`, for another format or version, a side of 0 or over 4096 pixels, damaged data and unknown classes.
    """
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(f'drawing: the text is no painted label map. The format is "{VERSION};WIDTHxHEIGHT;DATA". '
                         "Paint in the node, or load the graph again.")
    width = int(form[1])
    height = int(form[2])
    if not (1 <= width <= LONGEST_SIDE and 1 <= height <= LONGEST_SIDE):
        raise ValueError(f"drawing: the size is {width} x {height} pixels. Each side must have 1 to {LONGEST_SIDE}.")
    indices = np.frombuffer(_unpack(form[3], width * height), np.uint8)
    if indices.max() >= len(CLASSES):
        raise ValueError(f"drawing: the data has class {indices.max()}, but classes go from 0 to {len(CLASSES) - 1}. "
                         "Import the label map again.")
    return torch.from_numpy(indices.reshape(height, width).copy())


def _unpack(packed: str, size: int) -> bytes:
    """`size` bytes out of base64 of a zlib stream."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"drawing: the data is damaged ({error}). Load the graph again.") from error
    if len(unpacked) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"drawing: the data does not hold the {size} pixels of the announced size. "
                         "Load the graph again.")
    return unpacked
