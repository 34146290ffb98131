"""Regions of images: rectangles found from boxes and masks, and cropped from an image."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ..shared.boxes import to_pixels


class Region(NamedTuple):
    """A rectangle in pixels; it may reach beyond the image."""
    x: int
    y: int
    width: int
    height: int

    @classmethod
    def of_box(cls, box: dict) -> Region:
        """The rectangle of a BOUNDING_BOX, in whole pixels."""
        return cls(round(box["x"]), round(box["y"]), round(box["width"]), round(box["height"]))

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def intersect(self, other: Region) -> Region:
        """The common rectangle; it is empty if there is none."""
        x = max(self.x, other.x)
        y = max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Region(x, y, right - x, bottom - y)

    def window_in(self, other: Region) -> tuple[slice, slice]:
        """Rows and columns of this rectangle in an array of another rectangle, which contains it."""
        top = self.y - other.y
        left = self.x - other.x
        return slice(top, top + self.height), slice(left, left + self.width)


def list_boxes(bboxes: dict | list, batch: int, source: str) -> list[list[dict]]:
    """A BOUNDING_BOX in any of the host's forms as one list of boxes an image.

    The forms are one box, a list of boxes for all images, and a list of lists. Raises ValueError, which names the
    input `source`, for boxes of another number of images.
    """
    if isinstance(bboxes, dict):
        bboxes = [bboxes]
    if not bboxes or isinstance(bboxes[0], dict):
        bboxes = [bboxes]
    if len(bboxes) == 1:
        return bboxes * batch
    if len(bboxes) != batch:
        raise ValueError(f"{source}: the boxes are of {len(bboxes)} images, but there are {batch} images. Find the "
                         "boxes in the same images")
    return bboxes


def place_box(box: dict, size: tuple[int, int], source: str) -> dict:
    """The box in pixels of an image of `size` (height, width).

    Raises ValueError, naming the input `source`, for a box outside of the image.
    """
    height, width = size
    box = to_pixels(box, (width, height), source)
    if not (-box["width"] <= box["x"] < width and -box["height"] <= box["y"] < height):
        raise ValueError(f"{source}: the box {box} lies outside of the image of {width} x {height} pixels. Find the "
                         "boxes in the same images")
    return box


def find_boxes(mask: Tensor, height: int, width: int) -> list[list[dict]]:
    """The box around the pixels above 0.5 of each mask (B, H, W), stretched to an image's size."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    mask = F.interpolate(mask, (height, width), mode="nearest-exact")[:, 0] > 0.5  # (B, height, width)
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError("mask: a mask of the batch is empty. Mark the face in every mask")
    return [[{"x": left, "y": top, "width": right - left + 1, "height": bottom - top + 1}]
            for left, top, right, bottom in masks_to_boxes(mask).tolist()]


def choose_boxes(boxes: list[dict], index: int, number: int) -> list[dict]:
    """All boxes for index -1, else the box at that index from the largest on.

    number: the image's index in its batch, for the ValueError where the image has no such box.
    """
    boxes = sorted(boxes, key=lambda box: -box["width"] * box["height"])
    if index >= len(boxes):
        raise ValueError(f"index: face {index} does not exist, image {number} has {len(boxes)} faces (the first is 0). "
                         "Lower 'index', or set missing_frame_fallback in 'Detect Face Landmarks (MediaPipe)'")
    return boxes if index < 0 else [boxes[index]]


def expand_to_square(box: dict, context: float) -> Region:
    """The square about the middle of a BOUNDING_BOX.

    context: padding on each side, as a fraction of the box's longer side.
    """
    side = max(1, round(max(box["width"], box["height"]) * (1 + 2 * context)))
    x = round(box["x"] + (box["width"] - side) / 2)
    y = round(box["y"] + (box["height"] - side) / 2)
    return Region(x, y, side, side)


def crop(image: Tensor, region: Region) -> Tensor:
    """(H, W, C) -> (height, width, C); outside the image its border pixels repeat."""
    rows = torch.arange(region.y, region.y + region.height, device=image.device).clamp(0, image.shape[0] - 1)
    columns = torch.arange(region.x, region.x + region.width, device=image.device).clamp(0, image.shape[1] - 1)
    return image[rows][:, columns]


def resize(image: Tensor, width: int, height: int, smooth: bool = True) -> Tensor:
    """(H, W, C) -> (height, width, C). smooth: antialiased, else nearest neighbour without new colors.

    Computed in float32: on a CPU, PyTorch cannot resize half precision smoothly.
    """
    mode = dict(mode="bilinear", antialias=True) if smooth else dict(mode="nearest-exact")
    resized = F.interpolate(image.movedim(-1, 0)[None].float(), (height, width), **mode)
    return resized[0].movedim(0, -1).to(image)


def find_side(squares: list[list[Region]], least: int, most: int) -> int:
    """Side of crops that keep every pixel of the squares, a multiple of 8 between `least` and `most`."""
    sides = [square.width for places in squares for square in places]
    return min(most, max(least, -8 * (-max(sides) // 8)))


def describe_crops(squares: list[list[Region]], size: int) -> str:
    """One line for each square: its side, the side after cropping, and the resolution that is left."""
    lines = []
    for number, places in enumerate(squares):
        for i, square in enumerate(places):
            line = f"image {number}, face {i}: {square.width} to {size} pixels"
            if square.width > size:
                left = f"{size / square.width:.0%} of the resolution is left"
                line += f", {left}: raise 'size' or switch on 'keep_pixels'"
            lines.append(line)
    return "\n".join(lines)
