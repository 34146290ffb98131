"""Interactions as the user gives them: phrases, and boxes as fractions of the image."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..shared.boxes import to_pixels

Box = tuple[float, float, float, float]


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


def read_host_boxes(value, size: tuple[int, int], source: str) -> list[Box]:
    """Reads the boxes of the host's BOUNDING_BOX, in pixels of an image of `size` (width, height).

    The value is one box {x, y, width, height}, a list of boxes, or a list of such lists, one for each frame, of which
    the first frame is read. Boxes are cut off at the border of the image. Raises ValueError for a box outside of the
    image, and as `to_box` does.
    """
    found = [value] if isinstance(value, dict) else value or []
    if found and isinstance(found[0], list):
        found = found[0]
    boxes = []
    for box in found:
        boxes.append(to_box(clip_corners(to_pixels(box, size, source), size, source), size, source))
    return boxes


def clip_corners(box: dict, size: tuple[int, int], source: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box, cut off at the border of an image of `size` (width, height).

    Raises ValueError, naming the input `source`, for a box outside of the image.
    """
    width, height = size
    x0 = box["x"]
    y0 = box["y"]
    x1 = x0 + box["width"]
    y1 = y0 + box["height"]
    if x1 > x0 and y1 > y0 and (x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0):
        raise ValueError(f"{source}: the box {format_numbers((x0, y0, x1, y1))} lies outside of the image (pixels of "
                         f"{width} x {height}): set 'width' and 'height' to the size of the image in which the boxes "
                         "were found")
    return max(0, x0), max(0, y0), min(width, x1), min(height, y1)


def format_numbers(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
