"""The host's BOUNDING_BOX: one box {x, y, width, height}, as detectors and other packs give it."""
from __future__ import annotations

import math

FIELDS = ("x", "y", "width", "height")


def to_pixels(box: dict, size: tuple[int, int], source: str) -> dict[str, float]:
    """The box in pixels of an image of `size` (width, height).

    Boxes whose numbers are all at most 1 are fractions of the image. Raises ValueError, naming the input `source`, for
    a value that is no box.
    """
    try:
        numbers = {field: float(box[field]) for field in FIELDS}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: {box} is not a box: connect boxes with the numbers {', '.join(FIELDS)}") from error
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"{source}: the numbers of the box {box} are not finite: check the node that makes the boxes")
    if max(map(abs, numbers.values())) <= 1 and min(numbers["width"], numbers["height"]) > 0:
        width, height = size
        scales = dict(x=width, y=height, width=width, height=height)
        return {field: number * scales[field] for field, number in numbers.items()}
    return {field: box[field] for field in FIELDS}
