"""Candidates of dynamic sparse attention: the few keys that each query compares itself with.

See docs/design/dynast.md, section 6.4. Keys are numbered row by row, y * width + x, on their own grid. All functions
here keep the order of the candidates and keep duplicates: a key that is listed n times counts n times.
"""
from __future__ import annotations

import torch
from torch import Tensor

Grid2D = tuple[int, int]  # rows, columns

NEIGHBORS = ((-1, 0), (1, 0), (0, -1), (0, 1))  # (dy, dx): up, down, left, right


def select_best(scores: Tensor, candidates: Tensor | None, k: int) -> Tensor:
    """The k candidates with the highest scores, the highest first.

    scores: (..., g, C), of g queries that share C candidates. candidates: (..., C); None for all keys in their order.
    Returns (..., g, k) int64. Raises ValueError if there are fewer than k candidates.
    """
    if scores.shape[-1] < k:
        raise ValueError(f"top_k: {k} candidates are to be kept of {scores.shape[-1]}: use a larger image or a smaller "
                         "top_k")
    ranks = scores.topk(k, dim=-1).indices  # (..., g, k)
    if candidates is None:
        return ranks
    return candidates.unsqueeze(-2).expand_as(scores).gather(-1, ranks)


def expand_to_children(parents: Tensor, columns: int) -> Tensor:
    """Candidates on a grid -> their four children each, on the grid with twice as many rows and columns.

    This is the inter-scale step. parents: (..., K), on a grid with `columns` columns. Returns (..., 4K): the top left,
    top right, bottom left and bottom right child of each candidate. The four queries of a 2 x 2 window share them.
    """
    wide = 2 * columns
    top = 2 * (parents // columns)
    left = 2 * (parents % columns)
    corner = top * wide + left  # (..., K)
    offsets = torch.tensor([0, 1, wide, wide + 1], device=parents.device)
    return (corner.unsqueeze(-1) + offsets).flatten(-2)


def propagate_candidates(own: Tensor, queries: Grid2D, keys: Grid2D) -> Tensor:
    """Candidates of each query -> its own and those of its four neighbors, shifted back (intra-scale step).

    own: (B, N, K), for the N queries of the grid `queries`. The candidates of the upper neighbor move down by one row,
    and so on; all are clamped to the grid `keys`. At the border a missing neighbor is the query itself, shifted like
    any other. Returns (B, N, 5K): own, then those of the neighbors up, down, left, right.
    """
    rows, columns = queries
    grid = own.unflatten(1, queries)  # (B, rows, columns, K)
    y = torch.arange(rows, device=own.device)
    x = torch.arange(columns, device=own.device)
    found = [own]
    for dy, dx in NEIGHBORS:
        neighbor = grid[:, (y + dy).clamp(0, rows - 1)][:, :, (x + dx).clamp(0, columns - 1)]
        found.append(shift_candidates(neighbor.flatten(1, 2), -dy, -dx, keys))
    return torch.cat(found, dim=-1)


def shift_candidates(candidates: Tensor, dy: int, dx: int, keys: Grid2D) -> Tensor:
    """Candidates of any shape, moved over the grid of keys and clamped to it."""
    rows, columns = keys
    y = (candidates // columns + dy).clamp(0, rows - 1)
    x = (candidates % columns + dx).clamp(0, columns - 1)
    return y * columns + x


def split_2x2(x: Tensor, grid: Grid2D) -> Tensor:
    """(B, N, ...) on a grid with even sides -> (B, N / 4, 4, ...): its 2 x 2 windows, both numbered row by row."""
    rows, columns = grid
    x = x.unflatten(1, (rows // 2, 2, columns // 2, 2)).transpose(2, 3)  # (B, rows / 2, columns / 2, 2, 2, ...)
    return x.flatten(3, 4).flatten(1, 2)


def join_2x2(x: Tensor, grid: Grid2D) -> Tensor:
    """The inverse of `split_2x2`: (B, N / 4, 4, ...) -> (B, N, ...)."""
    rows, columns = grid
    x = x.unflatten(2, (2, 2)).unflatten(1, (rows // 2, columns // 2)).transpose(2, 3)
    return x.flatten(1, 4)
