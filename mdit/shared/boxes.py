"""Boxes as detectors and other packs give them, read as the host's BOUNDING_BOX: {x, y, width, height} in pixels.

Read are one box, a list of boxes, and a list of such lists, one for each image. A box is a dict of the host's fields,
or left, top, right and bottom (lists, arrays and tensors), which the score and the class may follow. SEGS of the Impact
Pack are read, too: a tuple of the image's (height, width) and a list of segments, each with `bbox`, `label` and
`confidence`.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from .text_files import shorten

FIELDS = ("x", "y", "width", "height")
CORNERS = (4, 5, 6)  # numbers of a box: left, top, right and bottom; with its score; with its class
UNITS = ("auto", "pixels", "fractions", "thousandths")
REMEDY = "Find the boxes in the same images, or choose their unit in 'units'"
LARGEST_SHARE = 8  # of the image's sides; a region of 'Crop Face' has up to 5, and larger crops take all memory
FARTHEST_FRACTION = 2.0  # a box may reach beyond the image, but none of this many pixels is of use
Size = tuple[float, float]  # width, height


def read_boxes(value: Any, size: Size, source: str, units: str = UNITS[0], remedy: str = REMEDY) -> list[list[dict]]:
    """The boxes of each image, in pixels of images of `size`. Further fields, such as `label`, stay.

    units: of the numbers, one of UNITS. "auto" takes them as fractions if all are small, otherwise as pixels.
    Raises ValueError, naming the input `source`, for a value that is no box and, with the remedy, for a box outside of
    the image. Where the unit was guessed, half of a box must lie inside.
    """
    images = list_boxes(value, source)
    across, down = get_grid(value) or find_grid(images, size, units)
    scales = size[0] / across, size[1] / down
    placed = []
    for boxes in images:
        placed.append([scale_box(box, *scales) for box in boxes])
    share = 0.5 if units == "auto" else 0.0
    for box in itertools.chain(*placed):
        is_huge = box["width"] > LARGEST_SHARE * size[0] or box["height"] > LARGEST_SHARE * size[1]
        if is_huge or not lies_inside(box, size, share):
            numbers = ", ".join(f"{field} {box[field]:g}" for field in FIELDS)
            raise ValueError(f"{source}: the box ({numbers}) lies outside of the image of {size[0]:g} x {size[1]:g} "
                             f"pixels. {remedy}")
    return placed


def list_boxes(value: Any, source: str) -> list[list[dict]]:
    """The boxes of each image, in the units of the value. Raises ValueError for a value that is no box."""
    if is_segs(value):
        return [[read_segment(segment, source) for segment in value[1]]]
    items = [value] if is_box(value) else list_items(value, source)
    is_flat = not items or any(map(is_box, items))
    images = [items] if is_flat else [list_items(item, source) for item in items]
    return [[read_box(box, source) for box in boxes] for boxes in images]


def match_images(boxes: list[list[dict]], batch: int, source: str) -> list[list[dict]]:
    """The boxes of each image of a batch. One list of boxes serves all images.

    Raises ValueError, naming the input `source`, for boxes of another number of images.
    """
    if len(boxes) not in (1, batch):
        raise ValueError(f"{source}: it is for {len(boxes)} images, but there are {batch} images. Make it from "
                         "the same images, or connect one for all")
    return boxes if len(boxes) == batch else boxes * batch


def list_items(value: Any, source: str) -> list:
    try:
        return [] if value is None else list(value)
    except TypeError as error:
        raise ValueError(describe_wrong_box(value, source)) from error


def is_box(value: Any) -> bool:
    return isinstance(value, dict) or any(is_numbers(value, count) for count in CORNERS)


def is_numbers(value: Any, count: int) -> bool:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return isinstance(value, Sequence) and len(value) == count and all(isinstance(item, Real) for item in value)


def is_segs(value: Any) -> bool:
    """Whether the value is the Impact Pack's SEGS."""
    return (isinstance(value, (tuple, list)) and len(value) == 2 and is_numbers(value[0], 2)
            and isinstance(value[1], (tuple, list)) and all(hasattr(segment, "bbox") for segment in value[1]))


def get_grid(value: Any) -> Size | None:
    """Width and height of the image in which SEGS were found; None for boxes, which do not know it."""
    if not is_segs(value) or 0 in tuple(value[0]):
        return None
    height, width = value[0]
    return width, height


def read_segment(segment: Any, source: str) -> dict:
    """The box of a segment of SEGS with its class name and score. Raises ValueError as `read_box` does."""
    box = read_box(segment.bbox, source)
    label = getattr(segment, "label", None)
    score = getattr(segment, "confidence", None)
    if label is not None:
        box["label"] = str(label)
    if isinstance(score, Real) or hasattr(score, "item"):
        box["score"] = float(score)
    return box


def read_corners(corners: Any) -> dict:
    x0, y0, x1, y1, *more = map(float, corners)
    box = dict(x=x0, y=y0, width=x1 - x0, height=y1 - y0)
    if more:
        box["score"] = more[0]
    if more[1:]:
        box["label"] = f"{more[1]:g}"
    return box


def read_fields(box: dict) -> dict:
    """A box of the host's fields, which may be tensors of one number. Further fields stay."""
    return box | {field: box[field].item() for field in FIELDS if hasattr(box[field], "item")}


def list_corners(box: dict) -> list[float]:
    """Left, top, right and bottom of a box."""
    return [box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]


def read_box(box: Any, source: str) -> dict:
    """A box as a dict. Raises ValueError, naming the input `source`, for a value that is no box."""
    try:
        found = read_fields(box) if isinstance(box, dict) else read_corners(box)
        numbers = [float(found[field]) for field in FIELDS]
        is_real = all(isinstance(found[field], Real) for field in FIELDS)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(describe_wrong_box(box, source)) from error
    if not is_real:
        raise ValueError(describe_wrong_box(box, source))
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{source}: the numbers of the box {shorten(box)} are not finite: check the node that makes "
                         "the boxes")
    if min(numbers[2:]) < 0:
        raise ValueError(f"{source}: the box {shorten(box)} has a negative size: give left, top, right and bottom, or "
                         "x, y, width and height")
    return found


def describe_wrong_box(value: Any, source: str) -> str:
    return (f"{source}: {shorten(value)} is not a box: connect boxes with the numbers {', '.join(FIELDS)}, SEGS, or "
            "lists of left, top, right and bottom")


def find_grid(images: Sequence[Sequence[dict]], size: Size, units: str) -> Size:
    """Width and height of the image in the units of the boxes."""
    if units == "thousandths":
        return 1000, 1000
    numbers = [abs(box[field]) for box in itertools.chain(*images) for field in FIELDS]
    are_small = max(numbers, default=math.inf) <= FARTHEST_FRACTION
    return (1, 1) if units == "fractions" or (units == "auto" and are_small) else size


def scale_box(box: dict, across: float, down: float) -> dict:
    if across == down == 1:
        return box
    scales = dict(x=across, y=down, width=across, height=down)
    return {**box, **{field: box[field] * scale for field, scale in scales.items()}}


def lies_inside(box: dict, size: Size, share: float) -> bool:
    """Whether this share of a box, or of the image, is common to both, in each direction."""
    for start, length, end in zip((box["x"], box["y"]), (box["width"], box["height"]), size):
        overlap = min(end, start + length) - max(0, start)
        if start >= end or overlap < share * min(length, end):
            return False
    return True
