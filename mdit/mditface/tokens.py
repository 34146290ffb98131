"""From a label map to the mask stream's tokens (docs/design/mditface.md, sections 3.2 and 8.1)."""
from __future__ import annotations

import hashlib
import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit

from ..labelmap import resize_nearest
from .config import MaskLayout
from .math import patchify
from .reductions import Reduction

LEAF_FRACTION = 1 / 8  # of the grid's side; `dev.py bench reductions`: larger leaves change images visibly


class MaskTokens(NamedTuple):
    """The mask stream's input.

    tokens: (b, M, features), M = h * w.
    grid: sides (h, w) of the tokens' grid.
    rows, cols: (h,) and (w,), the positions of the tokens on the image's grid.
    extent: sides of the image's grid in tokens.
    classes: (b, M), the class that a token shows; -1 where it shows several.
    latent: (b, C, h * patch, w * patch) whose patches the tokens are; None for class tokens.
    region: sides in tokens of the part of the image that reads them; None for `extent`.
    """
    tokens: Tensor
    grid: tuple[int, int]
    rows: Tensor
    cols: Tensor
    extent: tuple[int, int]
    classes: Tensor
    latent: Tensor | None = None
    region: tuple[int, int] | None = None

    def list_positions(self) -> Tensor:
        """Row and column of each token, (M, 2)."""
        return torch.cartesian_prod(self.rows, self.cols)

    def digest(self) -> bytes:
        """Content address of everything that enters the static pass. `latent` is left out: the tokens are its patches.
        """
        h = hashlib.blake2b(repr((self.grid, self.extent, self.region, self.tokens.shape, self.tokens.dtype)).encode())
        for part in (self.tokens, self.rows, self.cols, self.classes):
            h.update(part.contiguous().view(torch.uint8).numpy())
        return h.digest()


def place_tokens(extent: int, count: int, offset: float, corner: bool) -> Tensor:
    """Positions of `count` mask tokens among `extent` image tokens along an axis, (count,)."""
    step = extent / count
    center = 0 if corner else (step - 1) / 2
    return torch.arange(count, dtype=torch.float32) * step + center - offset


def average_classes(labels: Tensor, visible: Tensor, cells: int, label_patch: int) -> Tensor:
    """Label maps (b, H, W) -> tokens (b, M, cells^2 * classes).

    Each patch of label_patch^2 pixels is cut into cells^2 cells; a cell holds the fraction of each class in it.
    `visible` (classes,) is 0 for classes that are hidden from the model. Labels above the last class count as none.
    """
    classes = torch.arange(visible.shape[0], device=labels.device).view(-1, 1, 1)
    fractions = (labels[:, None] == classes).to(visible.dtype) * visible.view(-1, 1, 1)  # (b, classes, H, W)
    if label_patch > cells:  # else a slow copy: a fifteenth of a training step
        fractions = F.avg_pool2d(fractions, label_patch // cells)  # (b, classes, h * cells, w * cells)
    return patchify(fractions, cells)


def classify_patches(labels: Tensor, label_patch: int) -> Tensor:
    """The class of each patch (b, M) of label maps (b, H, W); -1 where its pixels have several."""
    pixels = patchify(labels[:, None].float(), label_patch)  # (b, M, label_patch^2)
    low = pixels.amin(-1)
    high = pixels.amax(-1)
    return torch.where(low == high, low, -1).to(torch.int16)


def pad_labels(labels: Tensor, label_patch: int) -> Tensor:
    """Pads (b, H, W) like the host pads the latent, so that mask and image tokens stay aligned."""
    padded = comfy.ldm.common_dit.pad_to_patch_size(labels[:, None].float(), (label_patch, label_patch))
    return padded[:, 0].to(labels.dtype)


def make_mask_tokens(labels: Tensor, latent: Tensor | None, visible: Tensor, layout: MaskLayout, pixels: int,
                     reduction: Reduction, extent: tuple[int, int] | None = None,
                     offset: tuple[float, float] = (0, 0), region: tuple[int, int] | None = None) -> MaskTokens:
    """Tokens of one region.

    labels: (b, H * pixels, W * pixels) class indices at the condition's size; a latent cell has `pixels` a side.
    latent: (b, C, H, W), the encoded image of the label maps; only `vae_palette` models need it.
    reduction: `half` leaves a quarter of the tokens.
    extent, offset, region: the image's grid in tokens where it is not the condition's, and the region's position and
        sides on it.
    """
    label_patch = layout.patch * pixels
    extent = extent or tuple(-(-side // label_patch) for side in labels.shape[-2:])
    if reduction.half:
        H, W = (-(-side // (2 * label_patch)) * layout.patch for side in labels.shape[-2:])
        labels = resize_nearest(labels, H * pixels, W * pixels)
        latent = None if latent is None else F.interpolate(latent, (H, W), mode="area")
    labels = pad_labels(labels, label_patch)
    if layout.tokenizer == "class_embed":
        latent = None
        tokens = average_classes(labels, visible, layout.cells, label_patch)  # (b, M, cells^2 * classes)
    else:
        latent = comfy.ldm.common_dit.pad_to_patch_size(latent, (layout.patch, layout.patch))
        tokens = patchify(latent, layout.patch)  # (b, M, C * patch^2)
    h, w = (side // label_patch for side in labels.shape[-2:])
    rows = place_tokens(extent[0], h, offset[0], layout.corner)
    cols = place_tokens(extent[1], w, offset[1], layout.corner)
    return MaskTokens(tokens, (h, w), rows, cols, extent, classify_patches(labels, label_patch), latent, region)


def find_flat_regions(classes: Tensor, grid: tuple[int, int]) -> Tensor:
    """For each of the M tokens of a grid (h, w) the index of its leaf, (M,).

    classes: (b, M). A leaf is a rectangle in which each map of the batch shows one class, or a single token. Row by
    row each token without a leaf grows one to the right, then down. No side spans more than LEAF_FRACTION of the grid.
    """
    h, w = grid
    kinds = classes.unique(dim=1, return_inverse=True)[1]
    kinds = kinds.masked_fill((classes < 0).any(dim=0), -1).view(h, w).tolist()
    side = max(1, int(min(h, w) * LEAF_FRACTION))
    leaves = [[-1] * w for _ in range(h)]
    count = 0
    for y, x in itertools.product(range(h), range(w)):
        if leaves[y][x] >= 0:
            continue
        bottom, right = grow_leaf(kinds, leaves, y, x, side)
        for row in leaves[y:bottom]:
            row[x:right] = [count] * (right - x)
        count += 1
    return torch.tensor(leaves).flatten()


def grow_leaf(kinds: list[list[int]], leaves: list[list[int]], y: int, x: int, side: int) -> tuple[int, int]:
    """The end of the leaf that begins at (y, x): the first row below the leaf and the first column right of it."""
    kind = kinds[y][x]

    def is_free(row: int, col: int) -> bool:
        return kinds[row][col] == kind >= 0 and leaves[row][col] < 0

    right = x + 1
    while right < min(len(kinds[0]), x + side) and is_free(y, right):
        right += 1
    bottom = y + 1
    while bottom < min(len(kinds), y + side) and all(is_free(bottom, col) for col in range(x, right)):
        bottom += 1
    return bottom, right


def merge_leaves(x: Tensor, leaves: Tensor) -> Tensor:
    """Means of x (..., M, D) over each leaf: (..., leaves, D), in float32.

    Leaves of one size are averaged together, so the order of summation is fixed on every device.
    """
    counts = leaves.bincount()
    by_size = counts.argsort(stable=True)  # (leaves,)
    tokens = by_size.argsort()[leaves].argsort(stable=True)  # (M,), by the size of their leaf, then by leaf
    sizes, numbers = counts.unique(return_counts=True)
    parts = x.float().index_select(-2, tokens.to(x.device)).split((sizes * numbers).tolist(), dim=-2)
    means = [part.unflatten(-2, (-1, size)).mean(-2) for part, size in zip(parts, sizes.tolist())]
    return torch.cat(means, dim=-2).index_select(-2, by_size.argsort().to(x.device))
