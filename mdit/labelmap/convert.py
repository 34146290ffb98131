"""Conversions between label-map images, class indices and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .classes import CLASSES
from .palettes import PALETTE, Color

SOFT = "is soft. Its pixels above 0.5 count, all others do not."  # a mask that is cut off
SIDES = tuple((CLASSES.index(f"l_{name}"), CLASSES.index(f"r_{name}")) for name in ("eye", "brow", "ear"))
STAND_IN = (64, 64)  # size of the host's empty mask for an image without transparency


def to_image(indices: torch.Tensor, colors: Sequence[Color] = PALETTE) -> torch.Tensor:
    """Class indices (B, H, W) as an image in the 8-bit `colors` of the classes, (B, H, W, 3) float in 0..1."""
    table = torch.tensor(colors, dtype=torch.float32, device=indices.device) / 255  # (19, 3)
    return table[indices.long()]


def resize_nearest(indices: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """(B, H, W) -> (B, h, w): each pixel takes the value under its centre (torch's "nearest-exact")."""
    return F.interpolate(indices[:, None], size=(h, w), mode="nearest-exact")[:, 0]


def swap_sides(indices: torch.Tensor) -> torch.Tensor:
    """Class indices, uint8 of any shape on the CPU, with left and right eyes, brows and ears exchanged."""
    table = torch.arange(256, dtype=torch.uint8)
    for left, right in SIDES:
        table[left] = right
        table[right] = left
    return table[indices.long()]


def to_masks(indices: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Masks of some classes: (B, H, W) indices -> (B, len(classes), H, W) float, 0 or 1."""
    wanted = torch.tensor(classes, device=indices.device)[:, None, None]  # (C, 1, 1)
    return (indices[:, None] == wanted).float()  # (B, C, H, W)


def from_masks(
    layers: Sequence[tuple[int, torch.Tensor]], h: int, w: int, base: torch.Tensor | None = None,
) -> torch.Tensor:
    """Paint masks as classes over label maps, or over background without a base; later layers lie on top.

    layers: (class index, mask) pairs; a mask is (H, W), (B, H, W) or (B, 1, H, W) and counts where it exceeds
        0.5. A mask of another size is resized by nearest neighbour, one of batch 1 serves the whole batch.
    base: (B, H, W) class indices to paint over, resized and repeated in the same way.
    Returns (B, h, w) uint8. Raises ValueError for no layers, a wrong shape and batches that do not fit.
    """
    if not layers:
        raise ValueError("masks: no mask is connected. Connect at least one mask.")
    masks = [_as_batch(mask, number) for number, (_, mask) in enumerate(layers, 1)]
    base = torch.zeros(1, h, w, dtype=torch.uint8) if base is None else resize_nearest(base, h, w)
    batch = max(len(base), max(map(len, masks)))
    if len(base) not in (1, batch):
        raise ValueError(f"label_map: the batch has {len(base)} label maps, but the masks are a batch of {batch}. "
                         "Connect batches of the same size, or a single label map.")
    indices = base.to(masks[0].device).repeat(batch // len(base), 1, 1)
    for number, ((class_index, _), mask) in enumerate(zip(layers, masks), 1):
        if len(mask) not in (1, batch):
            raise ValueError(f"masks: mask {number} is a batch of {len(mask)}, another mask is a batch of {batch}. "
                             "Give all masks the same batch size, or 1.")
        covered = (resize_nearest(mask, h, w) > 0.5).to(indices.device)  # (B or 1, h, w)
        indices[covered.expand(batch, h, w)] = class_index
    return indices


def find_size(masks: Sequence[torch.Tensor], base: torch.Tensor | None = None) -> tuple[int, int]:
    """Height and width of the label map that masks make: those of the base (B, H, W), else of the largest mask.

    The host gives an empty mask of 64 x 64 for an image without transparency. Such a stand-in counts only if there
    are no other masks.
    """
    if base is not None:
        return tuple(base.shape[-2:])
    real = [mask for mask in masks if tuple(mask.shape[-2:]) != STAND_IN or mask.any()] or masks
    return max((tuple(mask.shape[-2:]) for mask in real), key=math.prod, default=(0, 0))


def find_doubts(mask: torch.Tensor) -> list[str]:
    """What a host mask (..., H, W) of a region seems to be instead: an empty stand-in, a soft or an inverted mask."""
    chosen = mask > 0.5
    if not chosen.any():
        is_stand_in = tuple(mask.shape[-2:]) == STAND_IN
        reason = ", as 'Load Image' gives it for an image without transparency" if is_stand_in else ""
        return [f"is empty{reason}. Connect a mask with pixels above 0.5."]
    doubts = []
    if is_soft(mask):
        doubts.append(SOFT)
    corners = chosen[..., ::max(1, mask.shape[-2] - 1), ::max(1, mask.shape[-1] - 1)]
    if corners.all() and not chosen.all() and chosen.float().mean() > 0.5:
        doubts.append("covers all corners and most of the image. If it is inverted, connect 'Invert Mask' before it.")
    return doubts


def is_soft(mask: torch.Tensor) -> bool:
    """Whether over 5 % of a mask that is not empty lies well between 0 and 1: more than a smooth edge."""
    between = (mask > 0.1) & (mask < 0.9)
    return bool(between.sum() > 0.05 * (mask > 0.1).sum())


def _as_batch(mask: torch.Tensor, number: int) -> torch.Tensor:
    """(H, W), (B, H, W) or (B, 1, H, W) -> (B, H, W)."""
    shape = tuple(mask.shape)
    if mask.ndim == 2:
        mask = mask[None]
    elif mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3:
        raise ValueError(f"masks: mask {number} has shape {shape}, expected (batch, height, width).")
    if 0 in shape:
        raise ValueError(f"masks: mask {number} is empty, shape {shape}. Connect a mask with at least one pixel.")
    return mask.float()
