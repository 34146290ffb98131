"""What a user says: phrases, and boxes as fractions of the picture."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]


class Interaction(NamedTuple):
    """A subject does an action to an object. Boxes are (x0, y0, x1, y1), fractions of the picture from its top left."""
    subject: str
    action: str
    object: str
    subject_box: Box
    object_box: Box


def checked_box(numbers: Sequence[float], size: tuple[int, int], source: str) -> Box:
    """The box of four numbers in units of the picture's `size` (width, height): pixels, or fractions for (1, 1).

    Raises ValueError, naming the input `source`, unless it lies in the picture and has an area.
    """
    width, height = size
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{source}: {listed(numbers)} is no box: give four numbers, left, top, right and bottom")
    x0, y0, x1, y1 = numbers
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"{source}: the box {listed(numbers)} has no area: give left, top, right and bottom, left "
                         "before right and top before bottom")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        units = "fractions from 0 to 1" if size == (1, 1) else f"pixels of {width} x {height}"
        raise ValueError(f"{source}: the box {listed(numbers)} reaches outside of the picture ({units}): move it "
                         "inside, or change 'units', 'width' and 'height'")
    return x0 / width, y0 / height, x1 / width, y1 / height


def host_boxes(value, size: tuple[int, int], source: str) -> list[Box]:
    """The boxes of the host's BOUNDING_BOX, in pixels of a picture of `size` (width, height).

    One box is {x, y, width, height}; a list of them and a list of such lists, one a frame, occur, too: the first frame
    counts. Raises ValueError as `checked_box` does.
    """
    found = [value] if isinstance(value, dict) else value or []
    if found and isinstance(found[0], list):
        found = found[0]
    return [checked_box((box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]), size, source)
            for box in found]


def listed(numbers: Sequence[float]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
