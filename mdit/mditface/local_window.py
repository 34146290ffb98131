"""The windowed form: an image query reads only the mask keys near it (spec section 7.4).

The image grid is cut into tiles of TILE x TILE tokens. All queries of a tile read the same keys: those of the tile
and of `radius` tokens around it, (TILE + 2 radius)^2 at most. Keys and values are stored as *strips*: for each column
of tiles its tokens with the radius to both sides, so that every tile's window is one run of memory and the windows of
a column overlap in it without copies.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4


def tiles(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover a grid of tokens."""
    return -(-grid[0] // TILE), -(-grid[1] // TILE)


def pad(x: Tensor, grid: tuple[int, int], radius: int, value: float = 0.0) -> Tensor:
    """(..., h, w, D) -> the same with whole tiles and `radius` more tokens on each side."""
    (h, w), (rows, cols) = grid, tiles(grid)
    return F.pad(x, (0, 0, radius, cols * TILE - w + radius, radius, rows * TILE - h + radius), value=value)


def strips(x: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Mask keys or values (b, H, M, D) on the grid -> (b, C * H, R, D): a strip of R = rows * columns tokens for each
    of the C columns of tiles and each head."""
    padded = pad(x.unflatten(2, grid), grid, radius)  # (b, H, h', w', D)
    x = padded.unfold(3, TILE + 2 * radius, TILE)  # (b, H, h', C, D, width)
    return x.permute(0, 3, 1, 2, 5, 4).flatten(3, 4).flatten(1, 2).contiguous()


def from_strips(x: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """The inverse of `strips`."""
    (h, w), (rows, cols) = grid, tiles(grid)
    x = x.view(x.shape[0], cols, -1, rows * TILE + 2 * radius, TILE + 2 * radius, x.shape[-1])
    x = x[:, :, :, radius:radius + h, radius:radius + TILE]  # (b, C, H, h, TILE, D)
    return x.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)[:, :, :, :w].flatten(2, 3)


def strip_bias(grid: tuple[int, int], radius: int, heads: int, x: Tensor) -> Tensor:
    """What closes the windows' places outside the grid: (rows, C * heads, 1, window) of zero and minus infinity."""
    inside = pad(x.new_zeros(*grid, 1), grid, radius, value=-torch.inf)[..., 0]
    size = TILE + 2 * radius
    windows = inside.unfold(0, size, TILE).unfold(1, size, TILE)  # (rows, C, size, size)
    return windows.flatten(2).repeat_interleave(heads, dim=1).unsqueeze(2)


def dense_bias(grid: tuple[int, int], radius: int, x: Tensor) -> Tensor:
    """The same rule for every query and key of the grid, (N, N)."""
    near = []
    for side in grid:
        place = torch.arange(side, device=x.device)
        first = (place // TILE * TILE - radius).unsqueeze(1)
        near.append((place >= first) & (place < first + TILE + 2 * radius))  # (side, side)
    rows, cols = near
    both = (rows[:, None, :, None] & cols[None, :, None, :]).flatten(2).flatten(0, 1)
    return torch.zeros_like(both, dtype=x.dtype).masked_fill_(~both, -torch.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grid: tuple[int, int], radius: int, with_lse
           ) -> tuple[Tensor, Tensor]:
    """Attention of q (B, H, N, D) to strips k, v and its log-sum-exp (B, H, N)."""
    (h, w), (rows, cols), (B, H, _, D) = grid, tiles(grid), q.shape
    n = B // k.shape[0]  # latents that read one mask
    q = F.pad(q.unflatten(2, grid), (0, 0, 0, cols * TILE - w, 0, rows * TILE - h))
    q = q.view(n, -1, H, rows, TILE, cols, TILE, D).permute(1, 3, 5, 2, 0, 4, 6, 7)  # (b, rows, C, H, n, T, T, D)
    q = q.reshape(k.shape[0], rows, cols * H, n * TILE * TILE, D)
    parts = [with_lse(q[i], windows(k[i], rows, radius), windows(v[i], rows, radius), bias) for i in range(len(k))]
    out, lse = (torch.stack(x).view(-1, rows, cols, H, n, TILE, TILE, *x[0].shape[3:]) for x in zip(*parts))
    out = out.permute(4, 0, 3, 1, 5, 2, 6, 7).reshape(B, H, rows * TILE, cols * TILE, D)
    lse = lse.permute(4, 0, 3, 1, 5, 2, 6).reshape(B, H, rows * TILE, cols * TILE)
    return out[:, :, :h, :w].flatten(2, 3), lse[:, :, :h, :w].flatten(2, 3)


def windows(strip: Tensor, rows: int, radius: int) -> Tensor:
    """Overlapping views of strips (C * H, R, D): (rows, C * H, window, D)."""
    size, D = TILE + 2 * radius, strip.shape[-1]
    return strip.as_strided((rows, strip.shape[0], size * size, D), (TILE * size * D, strip.stride(0), D, 1),
                            strip.storage_offset())
