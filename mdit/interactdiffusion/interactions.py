"""Interactions as the user gives them: phrases, and boxes as fractions of the image."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..shared.boxes import UNITS, read_boxes
from ..shared.text_files import shorten

Box = tuple[float, float, float, float]
OUTSIDE = ("Set 'width' and 'height' to the size of the image in which the boxes were found, or choose thousandths in "
           "'units'")


class Interaction(NamedTuple):
    """A subject does an action to an object.

    Boxes are (x0, y0, x1, y1) as fractions of the image, from its top left corner.
    """
    subject: str
    action: str
    object: str
    subject_box: Box
    object_box: Box


def to_box(numbers: Sequence[float], size: tuple[int, int], source: str) -> Box:
    """Converts four numbers to a box. `size` (width, height) is their unit: pixels, or fractions for (1, 1).

    Raises ValueError, naming the input `source`, unless the box lies in the image and has an area.
    """
    width, height = size
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{source}: {format_numbers(numbers)} is not a box: give four numbers, left, top, right and "
                         "bottom")
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{source}: the box {format_numbers(numbers)} has no area: give left, top, right and bottom, "
                         "left smaller than right and top smaller than bottom")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        units = "fractions from 0 to 1" if size == (1, 1) else f"pixels of {width} x {height}"
        raise ValueError(f"{source}: the box {format_numbers(numbers)} reaches outside of the image ({units}): move "
                         "it inside, or change 'units', 'width' and 'height'")
    return x0 / width, y0 / height, x1 / width, y1 / height


def read_host_boxes(value, size: tuple[int, int], source: str, units: str = UNITS[0]) -> list[Box]:
    """Reads connected boxes of any form that `shared/boxes.py` reads, in an image of `size` (width, height).

    Of the boxes of several images the first image's are read. Boxes are cut off at the border of the image. Raises
    ValueError for a box outside of the image, and as `to_box` does.
    """
    found = read_boxes(value, size, source, units, OUTSIDE)[0]
    return [to_box(clip_corners(box, size), size, source) for box in found]


def clip_corners(box: dict, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box, cut off at the border of an image of `size` (width, height)."""
    width, height = size
    right = box["x"] + box["width"]
    bottom = box["y"] + box["height"]
    return max(0, box["x"]), max(0, box["y"]), min(width, right), min(height, bottom)


def format_numbers(numbers: Sequence[float]) -> str:
    return "(" + shorten(", ".join(f"{number:g}" for number in numbers)) + ")"
