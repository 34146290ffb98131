"""SEGS of the Impact Pack, made from boxes: the image's (height, width) and one segment for each box."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .boxes import list_corners

LABEL = "face"  # of a box without a class name


class Segment(NamedTuple):
    """One element of SEGS, with the field names that the Impact Pack reads."""
    cropped_image: np.ndarray
    """(1, h, w, C): the crop region of the image."""
    cropped_mask: np.ndarray
    """(h, w) float32: 1 in the box."""
    confidence: float
    crop_region: list[int]
    """Left, top, right and bottom; within the image."""
    bbox: tuple[float, float, float, float]
    label: str
    control_net_wrapper: Any = None


def make_segs(boxes: Sequence[dict], image: Tensor, context: float) -> tuple[tuple[int, int], list[Segment]]:
    """SEGS of boxes in pixels of an image (H, W, C).

    context: padding of the crop region on each side, as a fraction of the box's side.
    """
    height, width = image.shape[:2]
    pixels = image.cpu().float().numpy()
    segments = [make_segment(box, pixels, context) for box in boxes]
    return (height, width), [segment for segment in segments if segment.cropped_mask.any()]


def make_segment(box: dict, pixels: np.ndarray, context: float) -> Segment:
    corners = list_corners(box)
    pad = np.array([box["width"], box["height"]] * 2) * context * (-1, -1, 1, 1)
    left, top, right, bottom = cut_off(corners + pad, pixels)
    mask = np.zeros(pixels.shape[:2], np.float32)
    x0, y0, x1, y1 = cut_off(corners, pixels)
    mask[y0:y1, x0:x1] = 1
    return Segment(cropped_image=pixels[None, top:bottom, left:right], cropped_mask=mask[top:bottom, left:right],
                   confidence=float(box.get("score", 1.0)), crop_region=[left, top, right, bottom], bbox=tuple(corners),
                   label=str(box.get("label", LABEL)))


def cut_off(corners: Sequence[float], pixels: np.ndarray) -> tuple[int, ...]:
    """Left, top, right and bottom in whole pixels, within an image (H, W, C)."""
    height, width = pixels.shape[:2]
    return tuple(min(max(0, round(at)), end) for at, end in zip(corners, (width, height) * 2))
