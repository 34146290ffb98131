"""Faces pasted back into an image: soft borders, and a share of each face where squares overlap."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .region import Region


class Patch(NamedTuple):
    """A face at its place in an image."""
    colors: Tensor
    """(height, width, 3), in the size of the region."""
    region: Region
    alpha: Tensor
    """Opacity (height, width), 0..1."""


def paste(image: Tensor, patches: Sequence[Patch], seam: float) -> None:
    """Blends patches into the colors of an image (H, W, 3 or 4). Other channels stay.

    Where patches overlap, a pixel belongs to the patch whose middle is nearest, in units of half the patch's side.
    seam: difference of these distances over which one patch blends into the next. 0: no mixed colors.
    """
    height, width = image.shape[:2]
    frame = Region(0, 0, width, height)
    colors = torch.zeros(height, width, 3, device=image.device)
    total = torch.zeros(height, width, device=image.device)
    uncovered = torch.ones(height, width, device=image.device)
    for number, patch in enumerate(patches):
        area = patch.region.intersect(frame)
        if area.is_empty:
            continue
        weight = weigh(patches, number, area, seam)  # (h, w)
        window = area.window_in(frame)
        colors[window] += weight[..., None] * patch.colors[area.window_in(patch.region)]
        total[window] += weight
        uncovered[window] *= 1 - patch.alpha[area.window_in(patch.region)]
    share = (1 - uncovered) / total.clamp(min=torch.finfo(total.dtype).tiny)
    image[..., :3] = image[..., :3] * uncovered[..., None] + colors * share[..., None]


def weigh(patches: Sequence[Patch], number: int, area: Region, seam: float) -> Tensor:
    """Weights (h, w) of one patch in an area of it: its alpha, less where nearer patches cover it."""
    own = patches[number]
    weight = own.alpha[area.window_in(own.region)].clone()
    distance = measure_distance(own.region, area).to(weight)
    for i, other in enumerate(patches):
        shared = area.intersect(other.region)
        if i == number or shared.is_empty:
            continue
        window = shared.window_in(area)
        lead = distance[window] - measure_distance(other.region, shared).to(weight)  # positive: the other is nearer
        if seam > 0:
            ahead = (0.5 + lead / (2 * seam)).clamp(0, 1)
        else:
            ahead = (lead > 0) | ((lead == 0) & (i > number))
        weight[window] *= 1 - ahead * other.alpha[shared.window_in(other.region)]
    return weight


def measure_distance(region: Region, area: Region) -> Tensor:
    """Distances (h, w) of an area's pixels from the middle of a region, 1 at the region's sides."""
    rows = (torch.arange(area.height) + area.y + 0.5 - region.y) * 2 / region.height - 1
    columns = (torch.arange(area.width) + area.x + 0.5 - region.x) * 2 / region.width - 1
    return torch.maximum(rows.abs()[:, None], columns.abs())


def make_feather(region: Region, fraction: float, height: int, width: int) -> Tensor:
    """Alpha (h, w) of a region: 1 inside, falling to its sides over a fraction (0..0.5) of each side.

    Sides at or beyond the border of the image (height, width) do not fade: there is nothing behind them.
    """
    rows = _make_ramp(region.height, fraction, region.y > 0, region.y + region.height < height)
    columns = _make_ramp(region.width, fraction, region.x > 0, region.x + region.width < width)
    return torch.minimum(rows[:, None], columns)


def _make_ramp(n: int, fraction: float, fades_in: bool, fades_out: bool) -> Tensor:
    distance = torch.arange(n) + 0.5
    ramp = torch.ones(n)
    for fades, to_end in ((fades_in, distance), (fades_out, distance.flip(0))):
        if fades:
            ramp = torch.minimum(ramp, to_end / max(fraction * n, 0.5))
    return ramp


def soften(mask: Tensor, fraction: float) -> Tensor:
    """A mask (h, w) whose borders rise over a fraction of each side; the middle of the rise is the border."""
    for dim, n in enumerate(mask.shape):
        mask = _average(mask, dim, reach=int(fraction * n / 2))
    return mask


def _average(mask: Tensor, dim: int, reach: int) -> Tensor:
    """Means of the pixels up to `reach` away along one dimension. The mask goes on beyond its border."""
    padding = (reach + 1, reach, 0, 0) if dim == 1 else (0, 0, reach + 1, reach)
    padded = F.pad(mask[None, None].double(), padding, mode="replicate")[0, 0]
    sums = padded.cumsum(dim)
    length = 2 * reach + 1
    n = mask.shape[dim]
    return ((sums.narrow(dim, length, n) - sums.narrow(dim, 0, n)) / length).to(mask).clamp(0, 1)
