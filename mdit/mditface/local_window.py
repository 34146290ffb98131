"""Windows: an image query reads only the mask keys near it (docs/design/mditface.md, section 7.4).

The image grid is cut into tiles of TILE x TILE tokens. All queries of a tile read the same keys: those of the tile
and of `radius` tokens around it, (TILE + 2 radius)^2 at most. Keys and values are stored as *strips*: for each column
of tiles its tokens with the radius on both sides. The window of each tile is then one run of memory, and the windows
of a column overlap in it without copies.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4


def count_tiles(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover a grid of tokens."""
    return -(-grid[0] // TILE), -(-grid[1] // TILE)


def count_slots(grid: tuple[int, int], radius: int) -> int:
    """The places of one head in all strips of a grid."""
    rows, columns = count_tiles(grid)
    return columns * (rows * TILE + 2 * radius) * (TILE + 2 * radius)


def pad_grid(x: Tensor, radius: int, value: float = 0.0) -> Tensor:
    """(..., h, w, D) -> the same with whole tiles and `radius` more tokens on each side."""
    h, w = x.shape[-3:-1]
    rows, columns = count_tiles((h, w))
    below = rows * TILE - h + radius
    right = columns * TILE - w + radius
    return F.pad(x, (0, 0, radius, right, radius, below), value=value)


def cut_strips(x: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Mask keys or values (b, H, M, D) on the grid -> (b, C * H, R, D).

    For each of the C columns of tiles and each head one strip of R = rows * columns tokens.
    """
    padded = pad_grid(x.unflatten(2, grid), radius)  # (b, H, h', w', D)
    x = padded.unfold(3, TILE + 2 * radius, TILE)  # (b, H, h', C, D, width)
    return x.permute(0, 3, 1, 2, 5, 4).flatten(3, 4).flatten(1, 2).contiguous()


def join_strips(x: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """The inverse of `cut_strips`."""
    h, w = grid
    rows, columns = count_tiles(grid)
    width = TILE + 2 * radius
    x = x.view(x.shape[0], columns, -1, rows * TILE + 2 * radius, width, x.shape[-1])
    x = x[:, :, :, radius:radius + h, radius:radius + TILE]  # (b, C, H, h, TILE, D)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)[:, :, :, :w].flatten(2, 3)


def make_strip_bias(grid: tuple[int, int], radius: int, heads: int, x: Tensor) -> Tensor:
    """Closes the windows' positions outside of the grid: (rows, C * heads, 1, window) of zero and minus infinity."""
    inside = pad_grid(x.new_zeros(grid).unsqueeze(-1), radius, value=-torch.inf)[..., 0]
    width = TILE + 2 * radius
    windows = inside.unfold(0, width, TILE).unfold(1, width, TILE)  # (rows, C, width, width)
    return windows.flatten(2).repeat_interleave(heads, dim=1).unsqueeze(2)


def make_dense_bias(grid: tuple[int, int], radius: int, x: Tensor) -> Tensor:
    """Zero where a query's window holds the key, else minus infinity, for all queries and keys of the grid: (N, N)."""
    rows = is_near(grid[0], radius, x.device)
    columns = is_near(grid[1], radius, x.device)
    near = (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)
    return torch.zeros_like(near, dtype=x.dtype).masked_fill_(~near, -torch.inf)


def is_near(side: int, radius: int, device: torch.device) -> Tensor:
    """Along one side of the grid, whether a query's tile is near a key: (side, side) of queries and keys."""
    position = torch.arange(side, device=device)
    first = (position // TILE * TILE - radius).unsqueeze(1)
    return (position >= first) & (position < first + TILE + 2 * radius)


def attend_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grid: tuple[int, int], radius: int,
                   attend_with_lse: Callable) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, D) of q (B, H, N, D) to strips, and its log-sum-exp (B, H, N).

    k, v: strips, (b, C * H, R, D). bias: of `make_strip_bias`. attend_with_lse: as in attention.py.
    """
    h, w = grid
    rows, columns = count_tiles(grid)
    B, H, _, D = q.shape
    b = k.shape[0]
    n = B // b  # latents that read one mask
    q = F.pad(q.unflatten(2, grid), (0, 0, 0, columns * TILE - w, 0, rows * TILE - h))
    q = q.view(n, b, H, rows, TILE, columns, TILE, D).permute(1, 3, 5, 2, 0, 4, 6, 7)  # (b, rows, C, H, n, T, T, D)
    q = q.reshape(b, rows, columns * H, n * TILE * TILE, D)
    outputs = []
    sums = []
    for i in range(b):
        k_windows = view_windows(k[i], rows, radius)
        v_windows = view_windows(v[i], rows, radius)
        output, lse = attend_with_lse(q[i], k_windows, v_windows, bias)
        outputs.append(output)
        sums.append(lse)
    out = torch.stack(outputs).view(b, rows, columns, H, n, TILE, TILE, D)
    lse = torch.stack(sums).view(b, rows, columns, H, n, TILE, TILE)
    out = out.permute(4, 0, 3, 1, 5, 2, 6, 7).reshape(B, H, rows * TILE, columns * TILE, D)
    lse = lse.permute(4, 0, 3, 1, 5, 2, 6).reshape(B, H, rows * TILE, columns * TILE)
    return out[:, :, :h, :w].flatten(2, 3), lse[:, :, :h, :w].flatten(2, 3)


def view_windows(strips: Tensor, rows: int, radius: int) -> Tensor:
    """Overlapping views of strips (C * H, R, D): (rows, C * H, window, D)."""
    width = TILE + 2 * radius
    D = strips.shape[-1]
    return strips.as_strided((rows, strips.shape[0], width * width, D), (TILE * width * D, strips.stride(0), D, 1),
                             strips.storage_offset())
