"""Grids of tokens cut into windows, and proxy tokens that average them (PT-DiT spec sections 5 and 7)."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -10000.0  # finite: a row of logits that are all masked still has a softmax

Grid = tuple[int, int, int]  # frames, rows, columns


class Cut(NamedTuple):
    """One way to cut N tokens into nw windows of P slots.

    `index` (nw * P) holds the token of each slot, any in an empty one, and `slot` (N) the slot of each token. `bias`
    (B * nw, P, P) is added to the logits of an attention inside the windows; None for zero.
    """
    index: Tensor
    slot: Tensor
    bias: Tensor | None
    slots: int

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B * nw, P, d), numbered frame by frame, then by row and column, as the slots are."""
        return x.index_select(1, self.index).view(-1, self.slots, x.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """(B * nw, P, d) -> (B, N, d)."""
        return windows.view(-1, len(self.index), windows.shape[-1]).index_select(1, self.slot)


class Pool(NamedTuple):
    """The tokens that each of M proxies averages: `index` (M * G), and `real` (M, G, 1), 0 where there is none.

    `real` is None where every proxy has G.
    """
    index: Tensor
    real: Tensor | None
    members: int

    def average(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, M, d)."""
        groups = x.index_select(1, self.index).unflatten(1, (-1, self.members))  # (B, M, G, d)
        if self.real is None:
            return groups.mean(2)
        return (groups * self.real).sum(2) / self.real.sum(1)


class Layout(NamedTuple):
    """What the blocks need to know of one grid; all of them share it."""
    plain: Cut
    shifted: Cut
    pool: Pool


def lay_out(grid: Grid, window: Grid, proxies: tuple[int, int], like: Tensor) -> Layout:
    """For tokens `like` (B, N, d) on a grid. `proxies` are those of a window along its rows and columns.

    It is made anew in every call of a network: it costs little, and nothing can go stale.
    """
    return Layout(cut(grid, window, (0, 0, 0), like), cut(grid, window, tuple(side // 2 for side in window), like),
                  pool(grid, window, proxies, like))


def cut(grid: Grid, window: Grid, shift: Grid, like: Tensor) -> Cut:
    """The windows of the grid rolled by -`shift`; those that meet only because it wraps around do not attend."""
    count, slots = math.prod(grid), math.prod(window)
    regions = region_numbers(filled(grid, window), window, shift)
    tokens = numbered(grid, window).roll([-n for n in shift], (0, 1, 2))
    index, regions = (in_windows(x, window) for x in (tokens, regions))  # (nw, P)
    regions = regions.masked_fill(index == count, -1)
    apart = regions[:, :, None] != regions[:, None, :]  # (nw, P, P)
    slot = index.flatten().argsort()[:count]
    bias = None
    if apart.any():
        bias = torch.zeros(apart.shape).masked_fill_(apart, MASKED).to(like).repeat(like.shape[0], 1, 1)
    index = index.flatten().clamp(max=count - 1)
    return Cut(index.to(like.device), slot.to(like.device), bias, slots)


def pool(grid: Grid, window: Grid, proxies: tuple[int, int], like: Tensor) -> Pool:
    """Proxy (a, b) of a window averages its rows a, a + r, a + 2r, ... and likewise columns; time is never split."""
    (frames, rows, columns), (r, c) = window, proxies
    count = math.prod(grid)
    slots = in_windows(numbered(grid, window), window).view(-1, frames, rows // r, r, columns // c, c)
    index = slots.permute(0, 3, 5, 1, 2, 4).flatten(0, 2).flatten(1)  # (M, G)
    index = index[(index < count).any(1)]
    real = None
    if (index == count).any():
        real = (index < count).unsqueeze(-1).to(like)
    return Pool(index.flatten().clamp(max=count - 1).to(like.device), real, index.shape[1])


def filled(grid: Grid, window: Grid) -> Grid:
    """The grid's sides, filled up to whole windows."""
    return tuple(-(-n // w) * w for n, w in zip(grid, window))


def numbered(grid: Grid, window: Grid) -> Tensor:
    """The number of each token, on a grid filled up to whole windows on its far sides; N where there is none."""
    frames, rows, columns = (side - n for side, n in zip(filled(grid, window), grid))
    count = math.prod(grid)
    return F.pad(torch.arange(count).view(grid), (0, columns, 0, rows, 0, frames), value=count)


def in_windows(x: Tensor, window: Grid) -> Tensor:
    """(F, H, W) -> (nw, P)."""
    for axis in (2, 1, 0):
        x = x.unflatten(axis, (-1, window[axis]))
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, math.prod(window))


def region_numbers(sides: Grid, window: Grid, shift: Grid) -> Tensor:
    """A number (F, H, W) for each part of a rolled grid whose tokens were neighbours before it was rolled."""
    regions = torch.zeros(1, dtype=torch.long)
    for n, w, s in zip(sides, window, shift):
        at = torch.arange(n)
        own = (at >= n - w).long() + (at >= n - s) if s else torch.zeros_like(at)
        regions = 3 * regions.unsqueeze(-1) + own
    return regions.squeeze(0)
