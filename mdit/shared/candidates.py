"""Candidates of dynamic sparse attention: the few keys that each query looks at (DynaST spec section 6.4).

Keys are numbered row by row, y * width + x, on a grid (rows, columns) of their own. Everything here is integer, keeps
its order, and keeps duplicates: a key listed n times counts n times.
"""
from __future__ import annotations

import torch
from torch import Tensor

Grid = tuple[int, int]  # rows, columns

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (dy, dx): up, down, left, right


def best(scores: Tensor, candidates: Tensor | None, k: int) -> Tensor:
    """The k candidates of the highest scores, the highest first.

    scores: (..., g, C), of g queries that share C candidates. candidates: (..., C); None for all keys in their order.
    Returns (..., g, k) int64. Raises ValueError where there are fewer than k candidates.
    """
    if scores.shape[-1] < k:
        raise ValueError(f"top_k: {k} candidates are to be kept of {scores.shape[-1]}: use a larger picture, or a "
                         "smaller top_k")
    places = scores.topk(k, dim=-1).indices
    if candidates is None:
        return places
    return candidates.unsqueeze(-2).expand_as(scores).gather(-1, places)


def children(parents: Tensor, columns: int) -> Tensor:
    """Candidates on a grid of keys -> their four children each on the grid of twice its sides (inter-scale step).

    parents: (..., K) on a grid of so many columns. Returns (..., 4K), candidate by candidate, each as top left, top
    right, bottom left, bottom right. The four queries of a 2 x 2 window share them.
    """
    wide = 2 * columns
    corner = parents // columns * 2 * wide + parents % columns * 2  # (..., K)
    offsets = torch.tensor([0, 1, wide, wide + 1], device=parents.device)
    return (corner.unsqueeze(-1) + offsets).flatten(-2)


def propagated(own: Tensor, queries: Grid, keys: Grid) -> Tensor:
    """Candidates of each query -> its own, and those of its neighbours, shifted back (intra-scale step).

    own: (B, N, K), N the queries of a grid. What the upper neighbour looks at is taken one row lower, and so on, and
    clamped to the grid of keys. A neighbour beyond the picture is the query itself, shifted like any other.
    Returns (B, N, 5K): own, then of the neighbours up, down, left, right.
    """
    rows, columns = queries
    grid = own.unflatten(1, queries)  # (B, rows, columns, K)
    y = torch.arange(rows, device=own.device)
    x = torch.arange(columns, device=own.device)
    found = [own]
    for dy, dx in NEIGHBOURS:
        neighbour = grid[:, (y + dy).clamp(0, rows - 1)][:, :, (x + dx).clamp(0, columns - 1)]
        found.append(shifted(neighbour.flatten(1, 2), -dy, -dx, keys))
    return torch.cat(found, dim=-1)


def shifted(candidates: Tensor, dy: int, dx: int, keys: Grid) -> Tensor:
    """Candidates of any shape moved over the grid of keys, and clamped to it."""
    rows, columns = keys
    y = (candidates // columns + dy).clamp(0, rows - 1)
    x = (candidates % columns + dx).clamp(0, columns - 1)
    return y * columns + x


def windowed(x: Tensor, grid: Grid) -> Tensor:
    """(B, N, ...) of a grid of even sides -> (B, N / 4, 4, ...): its 2 x 2 windows, both numbered row by row."""
    rows, columns = grid
    x = x.unflatten(1, (rows // 2, 2, columns // 2, 2)).transpose(2, 3)  # (B, rows/2, columns/2, 2, 2, ...)
    return x.flatten(3, 4).flatten(1, 2)


def unwindowed(x: Tensor, grid: Grid) -> Tensor:
    """The inverse of `windowed`: (B, N / 4, 4, ...) -> (B, N, ...)."""
    rows, columns = grid
    x = x.unflatten(2, (2, 2)).unflatten(1, (rows // 2, columns // 2)).transpose(2, 3)
    return x.flatten(1, 4)
