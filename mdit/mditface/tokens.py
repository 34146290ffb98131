"""From a label map to the mask stream's tokens (spec section 3.2)."""
from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit

from ..labelmap import resize_nearest
from .config import MaskLayout
from .model import patchify


class MaskTokens(NamedTuple):
    """tokens (b, M, features) on their grid (h, w), M = h * w; rows (h,) and cols (w,), their places on the image's
    grid `extent`, in its tokens; classes (b, M), -1 where a token covers several."""
    tokens: Tensor
    grid: tuple[int, int]
    rows: Tensor
    cols: Tensor
    extent: tuple[int, int]
    classes: Tensor

    def digest(self) -> bytes:
        """Content address of everything that enters the static pass."""
        h = hashlib.blake2b(repr((self.grid, self.extent, tuple(self.tokens.shape), self.tokens.dtype)).encode())
        for part in (self.tokens, self.rows, self.cols, self.classes):
            h.update(part.contiguous().view(torch.uint8).numpy())
        return h.digest()


def places(extent: int, count: int, offset: float, corner: bool) -> Tensor:
    """Where `count` mask tokens stand among `extent` image tokens along an axis, (count,)."""
    step = extent / count
    return torch.arange(count, dtype=torch.float32) * step + (0 if corner else (step - 1) / 2) - offset


def class_cells(labels: Tensor, visible: Tensor, cells: int, label_patch: int) -> Tensor:
    """Label maps (b, H, W) -> tokens (b, M, cells^2 * classes).

    Each patch of label_patch^2 pixels is cut into cells^2 cells; a cell holds the share of each class in it.
    `visible` (classes,) is 0 for classes that the model shall not see. Labels beyond the classes are seen as none.
    """
    classes = torch.arange(visible.shape[0], device=labels.device).view(-1, 1, 1)
    shares = (labels[:, None] == classes).to(visible.dtype) * visible.view(-1, 1, 1)  # (b, classes, H, W)
    shares = F.avg_pool2d(shares, label_patch // cells)  # (b, classes, h * cells, w * cells)
    return patchify(shares, cells)


def patch_classes(labels: Tensor, label_patch: int) -> Tensor:
    """The class of each patch (b, M) of label maps (b, H, W); -1 where its pixels differ."""
    pixels = patchify(labels[:, None].float(), label_patch)  # (b, M, label_patch^2)
    low, high = pixels.amin(-1), pixels.amax(-1)
    return torch.where(low == high, low, -1).to(torch.int16)


def pad_labels(labels: Tensor, label_patch: int) -> Tensor:
    """Pads (b, H, W) like the host pads the latent, so that mask and image tokens stay aligned."""
    padded = comfy.ldm.common_dit.pad_to_patch_size(labels[:, None].float(), (label_patch, label_patch))
    return padded[:, 0].to(labels.dtype)


def mask_tokens(labels: Tensor, latent: Tensor | None, visible: Tensor, layout: MaskLayout, pixels: int, half: bool,
                extent: tuple[int, int] | None = None, offset: tuple[float, float] = (0, 0)) -> MaskTokens:
    """Tokens of one region.

    labels: (b, H * pixels, W * pixels) class indices at the condition's size, `pixels` a latent cell.
    latent: (b, C, H, W), the encoded palette picture; needed by `vae_palette` models only.
    half: quarter as many tokens.
    extent, offset: the image's grid in tokens, where it is not the condition's, and the region's place on it.
    """
    label_patch = layout.patch * pixels
    extent = extent or tuple(-(-side // label_patch) for side in labels.shape[-2:])
    if half:
        H, W = (-(-side // (2 * label_patch)) * layout.patch for side in labels.shape[-2:])
        labels = resize_nearest(labels, H * pixels, W * pixels)
        latent = None if latent is None else F.interpolate(latent, (H, W), mode="area")
    labels = pad_labels(labels, label_patch)
    if layout.tokenizer == "class_embed":
        tokens = class_cells(labels, visible, layout.cells, label_patch)
    else:
        tokens = patchify(comfy.ldm.common_dit.pad_to_patch_size(latent, (layout.patch, layout.patch)), layout.patch)
    grid = tuple(side // label_patch for side in labels.shape[-2:])
    rows, cols = (places(*axis, layout.corner) for axis in zip(extent, grid, offset))
    return MaskTokens(tokens, grid, rows, cols, extent, patch_classes(labels, label_patch))


def flat_regions(classes: Tensor, h: int, w: int) -> Tensor:
    """Quadtree over the token grid (spec section 8.1): for each of the M tokens the index of its leaf, (M,).

    classes: (b, M). A node is a leaf where each map of the batch shows one class in it, or at a single token.
    """
    grid = classes.view(-1, h, w)
    leaves = torch.empty(h, w, dtype=torch.long)
    count = 0
    nodes = [(0, h, 0, w)]
    while nodes:
        top, bottom, left, right = nodes.pop()
        node = grid[:, top:bottom, left:right].flatten(1)
        if node.shape[1] == 1 or ((node == node[:, :1]).all() and (node >= 0).all()):
            leaves[top:bottom, left:right] = count
            count += 1
            continue
        y, x = -(-(top + bottom) // 2), -(-(left + right) // 2)
        nodes += [(*rows, *cols) for rows in ((top, y), (y, bottom)) for cols in ((left, x), (x, right))
                  if rows[0] < rows[1] and cols[0] < cols[1]]
    return leaves.flatten()


def merge_leaves(x: Tensor, leaves: Tensor) -> Tensor:
    """Means of x (b, H, M, D) over each leaf: (b, H, leaves, D)."""
    counts = leaves.bincount().to(x).view(-1, 1)
    merged = x.new_zeros(*x.shape[:2], counts.shape[0], x.shape[3])
    return merged.index_add(2, leaves.to(x.device), x) / counts
