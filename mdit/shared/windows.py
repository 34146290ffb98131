"""Grids of tokens split into windows, and proxy tokens that average them (docs/design/pt-dit.md, sections 5 and 7)."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -10000.0  # finite: a row of logits that are all masked still has a softmax

Grid3D = tuple[int, int, int]  # frames, rows, columns


class WindowPartition(NamedTuple):
    """One way to split N tokens into nw windows with P slots each.

    token_of_slot: (nw * P), the token in each slot; any token in an empty slot.
    slot_of_token: (N), the slot of each token.
    bias: (B * nw, P, P), added to the logits of attention inside the windows; None for zero.
    slots: P.
    """
    token_of_slot: Tensor
    slot_of_token: Tensor
    bias: Tensor | None
    slots: int

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B * nw, P, d), windows and slots numbered by frame, then by row and column."""
        return x.index_select(1, self.token_of_slot).view(-1, self.slots, x.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """(B * nw, P, d) -> (B, N, d)."""
        return windows.view(-1, len(self.token_of_slot), windows.shape[-1]).index_select(1, self.slot_of_token)


class ProxyPool(NamedTuple):
    """The tokens that each of M proxies averages.

    index: (M * G), the tokens of each group.
    real: (M, G, 1), 0 for a member that does not exist; None if every group is complete.
    members: G.
    """
    index: Tensor
    real: Tensor | None
    members: int

    def average(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, M, d), summed in float32."""
        groups = x.index_select(1, self.index).unflatten(1, (-1, self.members))  # (B, M, G, d)
        if self.real is None:
            return groups.mean(2)
        real = self.real.float()
        return ((groups * real).sum(2) / real.sum(1)).to(x.dtype)


class WindowLayout(NamedTuple):
    """Windows, shifted windows and proxies of one grid; all blocks share them."""
    plain: WindowPartition
    shifted: WindowPartition
    pool: ProxyPool


def build_layout(grid: Grid3D, window: Grid3D, proxies: tuple[int, int], like: Tensor) -> WindowLayout:
    """The layout for tokens `like` (B, N, d) on a grid. `proxies`: proxies of a window along its rows and columns.

    It is built in every call of a network: it costs little, and nothing can become stale.
    """
    shift = tuple(side // 2 for side in window)
    plain = build_partition(grid, window, (0, 0, 0), like)
    shifted = build_partition(grid, window, shift, like)
    return WindowLayout(plain, shifted, build_pool(grid, window, proxies, like))


def build_partition(grid: Grid3D, window: Grid3D, shift: Grid3D, like: Tensor) -> WindowPartition:
    """The windows of the grid rolled by -`shift`. Tokens that meet only because the grid wraps around do not attend."""
    count = math.prod(grid)
    slots = math.prod(window)
    tokens = number_tokens(grid, window).roll([-side for side in shift], (0, 1, 2))
    index = group_by_window(tokens, window)  # (nw, P)
    regions = group_by_window(number_regions(pad_to_windows(grid, window), window, shift), window)  # (nw, P)
    regions = regions.masked_fill(index == count, -1)
    apart = regions[:, :, None] != regions[:, None, :]  # (nw, P, P)
    bias = None
    if apart.any():
        bias = torch.zeros(apart.shape).masked_fill_(apart, MASKED).to(like).repeat(like.shape[0], 1, 1)
    slot_of_token = index.flatten().argsort()[:count]
    token_of_slot = index.flatten().clamp(max=count - 1)
    return WindowPartition(token_of_slot.to(like.device), slot_of_token.to(like.device), bias, slots)


def build_pool(grid: Grid3D, window: Grid3D, proxies: tuple[int, int], like: Tensor) -> ProxyPool:
    """Proxy (a, b) of a window averages its rows a, a + r, a + 2r, ... and columns alike; time is never divided."""
    frames, rows, columns = window
    r, c = proxies
    count = math.prod(grid)
    slots = group_by_window(number_tokens(grid, window), window)  # (nw, P)
    slots = slots.view(-1, frames, rows // r, r, columns // c, c)
    index = slots.permute(0, 3, 5, 1, 2, 4).flatten(0, 2).flatten(1)  # (M, G)
    index = index[(index < count).any(1)]
    real = None
    if (index == count).any():
        real = (index < count).unsqueeze(-1).to(like)
    return ProxyPool(index.flatten().clamp(max=count - 1).to(like.device), real, index.shape[1])


def pad_to_windows(grid: Grid3D, window: Grid3D) -> Grid3D:
    """The sides of the grid, rounded up to whole windows."""
    return tuple(-(-side // part) * part for side, part in zip(grid, window))


def number_tokens(grid: Grid3D, window: Grid3D) -> Tensor:
    """The number of each token, on the grid padded to whole windows on its far sides; N in the padding."""
    frames, rows, columns = (padded - side for padded, side in zip(pad_to_windows(grid, window), grid))
    count = math.prod(grid)
    return F.pad(torch.arange(count).view(grid), (0, columns, 0, rows, 0, frames), value=count)


def group_by_window(x: Tensor, window: Grid3D) -> Tensor:
    """(F, H, W) -> (nw, P)."""
    for axis in (2, 1, 0):
        x = x.unflatten(axis, (-1, window[axis]))
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, math.prod(window))


def number_regions(sides: Grid3D, window: Grid3D, shift: Grid3D) -> Tensor:
    """The region (F, H, W) of each position of a rolled grid: only positions of one region were neighbors before."""
    regions = torch.zeros(1, dtype=torch.long)
    for n, w, s in zip(sides, window, shift):
        position = torch.arange(n)
        own = torch.zeros_like(position)
        if s:
            own = (position >= n - w).long() + (position >= n - s)
        regions = 3 * regions.unsqueeze(-1) + own
    return regions.squeeze(0)
