"""Faces pasted back into an image: soft borders, and a share of each face where squares overlap."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .region import Region, locate_in, resize, sample

Size = tuple[int, int]  # height, width


class Patch(NamedTuple):
    """A face at its place in an image."""
    colors: Tensor
    """(height, width, 3), in the size of the region."""
    region: Region
    """Not turned; a tilted face fills a part of it."""
    alpha: Tensor
    """Opacity (height, width), 0..1."""
    distance: Tensor
    """(height, width), from the middle of the face's square; 1 at its sides."""


def make_patch(face: Tensor, square: Region, size: Size, feather: float, smooth: bool) -> Patch:
    """A face (h, w, 3) at its square in an image of a size.

    feather: width of the soft border, as a fraction of each side. smooth: as in `resize`.
    """
    colors = resize(face, square.width, square.height, smooth)
    if not square.tilt:
        alpha = make_feather(square, feather, *size)
        return Patch(colors, square, alpha.to(colors), measure_distance(square).to(colors))
    bounds = square.bounds
    x, y = locate_in(square, bounds)
    distance = torch.maximum((x * 2 / square.width - 1).abs(), (y * 2 / square.height - 1).abs())
    alpha = make_tilted_feather(square, feather, size) * (distance < 1) if smooth else distance < 1
    return Patch(sample(colors, x, y, smooth), bounds, alpha.to(colors), distance.to(colors))


def apply_mask(patch: Patch, mask: Tensor, square: Region, feather: float, smooth: bool) -> Patch:
    """The patch in the shape of a mask (h, w) of its square, with a soft border if smooth."""
    shape = resize(mask[..., None].to(patch.alpha), square.width, square.height, smooth)[..., 0]
    shape = soften(shape, feather) if smooth else (shape > 0.5).to(shape)
    if square.tilt:
        shape = sample(shape[..., None], *locate_in(square, patch.region), smooth)[..., 0]
    return patch._replace(alpha=patch.alpha * shape)


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
    distance = own.distance[area.window_in(own.region)]
    for i, other in enumerate(patches):
        shared = area.intersect(other.region)
        if i == number or shared.is_empty:
            continue
        window = shared.window_in(area)
        lead = distance[window] - other.distance[shared.window_in(other.region)]  # positive: the other is nearer
        if seam > 0:
            ahead = (0.5 + lead / (2 * seam)).clamp(0, 1)
        else:
            ahead = (lead > 0) | ((lead == 0) & (i > number))
        weight[window] *= 1 - ahead * other.alpha[shared.window_in(other.region)]
    return weight


def measure_distance(region: Region) -> Tensor:
    """Distances (h, w) of a region's pixels from its middle, 1 at its sides."""
    rows = (torch.arange(region.height) + 0.5) * 2 / region.height - 1
    columns = (torch.arange(region.width) + 0.5) * 2 / region.width - 1
    return torch.maximum(rows.abs()[:, None], columns.abs())


def make_feather(region: Region, fraction: float, height: int, width: int) -> Tensor:
    """Alpha (h, w) of a region: 1 inside, falling to its sides over a fraction (0..0.5) of each side.

    Sides at or beyond the border of the image (height, width) do not fade: there is nothing behind them.
    """
    rows = _make_ramp(region.height, fraction, region.y > 0, region.y + region.height < height)
    columns = _make_ramp(region.width, fraction, region.x > 0, region.x + region.width < width)
    return torch.minimum(rows[:, None], columns)


def make_tilted_feather(square: Region, fraction: float, size: Size) -> Tensor:
    """The same for the bounds of a turned square: alpha falls to those parts of its sides that lie in the image."""
    bounds = square.bounds
    positions = torch.stack(locate_in(square, bounds), dim=-1)  # (h, w, 2)
    alpha = torch.ones(bounds.height, bounds.width)
    width, height = square.width, square.height
    corners = torch.tensor([(0, 0), (width, 0), (width, height), (0, height)], dtype=torch.float32)
    for corner, end, n in zip(corners, corners.roll(-1, 0), (height, width, height, width)):
        start, stop = _clip_side(square, corner, end, size)
        if start < stop:
            along = (positions - corner) @ (end - corner) / (end - corner).square().sum()
            nearest = corner + along.clamp(start, stop)[..., None] * (end - corner)
            alpha = torch.minimum(alpha, (positions - nearest).norm(dim=-1) / max(fraction * n, 0.5))
    return alpha


def _clip_side(square: Region, corner: Tensor, end: Tensor, size: Size) -> tuple[float, float]:
    """The part of a side inside an image, as fractions of the way from one corner to the next."""
    c, s = square.direction
    turn = torch.tensor([(c, s), (-s, c)])
    middle = torch.tensor([square.width, square.height]) / 2
    start = 0.0
    stop = 1.0
    for at, way, limit in zip(((corner - middle) @ turn + torch.tensor(square.middle)).tolist(),
                              ((end - corner) @ turn).tolist(), (size[1], size[0])):
        if abs(way) < 1e-6 * max(size):
            stop = stop if 0 < at < limit else start
        else:
            near, far = sorted((-at / way, (limit - at) / way))
            start = max(start, near)
            stop = min(stop, far)
    return start, stop


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
