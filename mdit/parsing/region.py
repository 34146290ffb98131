"""Rectangles of pictures: found in boxes and masks, cut out as pictures of their own, and put back."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes


class Region(NamedTuple):
    """A rectangle in pixels; it may reach beyond the picture."""
    x: int
    y: int
    width: int
    height: int


def per_picture(bboxes: dict | list, batch: int, source: str) -> list[list[dict]]:
    """A BOUNDING_BOX in any form of the host's (one box; boxes for all pictures; a list a picture) as a list each.

    Raises ValueError, which names the input `source`, for boxes of another number of pictures.
    """
    if isinstance(bboxes, dict):
        bboxes = [bboxes]
    if not bboxes or isinstance(bboxes[0], dict):
        bboxes = [bboxes]
    if len(bboxes) == 1:
        return bboxes * batch
    if len(bboxes) != batch:
        raise ValueError(f"{source}: boxes for {len(bboxes)} pictures, but there are {batch}: find the boxes in the "
                         "same pictures")
    return bboxes


def boxes_of(mask: Tensor, height: int, width: int) -> list[list[dict]]:
    """The box around the pixels above 0.5 of each mask (B, H, W), stretched to a picture's size."""
    mask = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]), (height, width), mode="nearest-exact")[:, 0] > 0.5
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError("mask: a mask of the batch is empty, there is nothing to cut out: mark the face in each")
    return [[{"x": left, "y": top, "width": right - left + 1, "height": bottom - top + 1}]
            for left, top, right, bottom in masks_to_boxes(mask).tolist()]


def chosen(boxes: list[dict], index: int, number: int) -> list[dict]:
    """All boxes for index -1, else the one at that place from the largest on; ValueError where it is missing."""
    boxes = sorted(boxes, key=lambda box: -box["width"] * box["height"])
    if index >= len(boxes):
        raise ValueError(f"index: face {index} is asked, but picture {number} has {len(boxes)} (the first is 0): lower "
                         "'index', or set missing_frame_fallback where the faces are found")
    return boxes if index < 0 else [boxes[index]]


def square_around(box: dict, context: float) -> Region:
    """The square about the middle of a BOUNDING_BOX; `context` is what it adds on each side of the box's longer one,
    in parts of that."""
    side = max(1, round(max(box["width"], box["height"]) * (1 + 2 * context)))
    return Region(round(box["x"] + (box["width"] - side) / 2), round(box["y"] + (box["height"] - side) / 2), side, side)


def cut(picture: Tensor, region: Region) -> Tensor:
    """(H, W, C) -> (height, width, C); beyond the picture its edges are continued."""
    x, y, width, height = region
    rows = torch.arange(y, y + height, device=picture.device).clamp(0, picture.shape[0] - 1)
    columns = torch.arange(x, x + width, device=picture.device).clamp(0, picture.shape[1] - 1)
    return picture[rows][:, columns]


def resize(picture: Tensor, width: int, height: int, smooth: bool = True) -> Tensor:
    """(H, W, C) -> (height, width, C); smooth: each pixel is the mean of what it covers, else no colour is new."""
    mode = dict(mode="bilinear", antialias=True) if smooth else dict(mode="nearest-exact")
    return F.interpolate(picture.movedim(-1, 0)[None], (height, width), **mode)[0].movedim(0, -1)


def paste(picture: Tensor, patch: Tensor, region: Region, alpha: Tensor) -> None:
    """Writes a patch (height, width, C) into its region of a picture (H, W, C), weighed by alpha (height, width)."""
    top, left = max(0, -region.y), max(0, -region.x)
    under = picture[max(0, region.y):max(0, region.y + region.height), max(0, region.x):max(0, region.x + region.width)]
    inside = slice(top, top + under.shape[0]), slice(left, left + under.shape[1])
    under.lerp_(patch[inside].to(under), alpha[inside][..., None].to(under))


def feathered(region: Region, part: float) -> Tensor:
    """Alpha (height, width): 1 inside, falling to the edges over a part (0..0.5) of each side."""
    def ramp(n: int) -> Tensor:
        distance = torch.minimum(torch.arange(n), torch.arange(n).flip(0)) + 0.5
        return (distance / max(part * n, 0.5)).clamp(max=1)
    return torch.minimum(ramp(region.height)[:, None], ramp(region.width))
