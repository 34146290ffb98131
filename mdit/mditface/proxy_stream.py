"""An image stream for large grids (experimental; docs/design/pt-dit.md, section 14).

Image tokens attend to each other inside windows, and to the rest of the image through proxy tokens, one for each
window. The work grows with the number of tokens.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention

from ..shared.norm import layer_norm, modulate
from ..shared.windows import WindowLayout, WindowPartition, build_layout


class ProxyGrid(NamedTuple):
    """What all blocks share: how the grid is cut, and what rotates q and k; None where positions are not rotations.

    layout: the windows, the shifted windows and the pool of the proxies.
    plain: rotation in windows, (B * nw, 1, P, D/2, 2, 2).
    shifted: rotation in shifted windows, of the same shape.
    proxies: rotation among the proxies, (1, 1, M, D/2, 2, 2).
    """
    layout: WindowLayout
    plain: Tensor | None
    shifted: Tensor | None
    proxies: Tensor | None


def make_proxy_grid(window: int, grid: tuple[int, int], img: Tensor, positions: Tensor,
                    compute_rotation: Callable[[Tensor], Tensor | None]) -> ProxyGrid:
    """For image tokens (B, N, d) at `positions` (N, 2) of a grid (h, w), in windows of `window` by `window` tokens."""
    layout = build_layout((1, *grid), (1, window, window), (1, 1), img)

    def rotate_windows(cut: WindowPartition) -> Tensor | None:
        pe = compute_rotation(positions[cut.token_of_slot])
        if pe is None:
            return None
        pe = pe.unflatten(2, (-1, cut.slots))[0].transpose(0, 1)  # (nw, 1, P, D/2, 2, 2)
        return pe.repeat(img.shape[0], *[1] * (pe.ndim - 1))

    return ProxyGrid(layout, rotate_windows(layout.plain), rotate_windows(layout.shifted),
                     compute_rotation(layout.pool.average(positions[None])[0]))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor, pe: Tensor | None, bias: Tensor | None = None, transformer_options={}) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D)
        if pe is not None:
            q = apply_rope1(q, pe)
            k = apply_rope1(k, pe)
        return self.proj(optimized_attention(q, k, v, self.heads, mask=bias, skip_reshape=True,
                                             transformer_options=transformer_options))


class ProxyStream(nn.Module):
    """What the image stream of one block has in addition to its `Stream`, which serves the proxies and the MLP.

    With a modulation of zero it does not change the tokens.
    """

    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        layers = {"dtype": dtype, "device": device, "operations": operations}
        self.heads = heads
        self.mod = operations.Linear(width, 6 * width, dtype=dtype, device=device)
        self.plain = SelfAttention(width, heads, **layers)
        self.shifted = SelfAttention(width, heads, **layers)
        self.among = SelfAttention(width, heads, **layers)
        self.query = operations.Linear(width, width, dtype=dtype, device=device)

    def read_windows(self, img: Tensor, vec: Tensor, grid: ProxyGrid, transformer_options={}) -> Tensor:
        """Image tokens (B, N, d) after windows and shifted windows."""
        a1, b1, g1, a2, b2, g2 = self.mod(F.silu(vec)).unsqueeze(1).chunk(6, dim=-1)
        windows = grid.layout.plain.split(modulate(layer_norm(img), a1, b1))
        read = self.plain(windows, grid.plain, grid.layout.plain.bias, transformer_options)
        img = torch.addcmul(img, g1, grid.layout.plain.join(read))
        windows = grid.layout.shifted.split(modulate(layer_norm(img), a2, b2))
        read = self.shifted(windows, grid.shifted, grid.layout.shifted.bias, transformer_options)
        return torch.addcmul(img, g2, grid.layout.shifted.join(read))

    def make_proxies(self, img: Tensor, grid: ProxyGrid, transformer_options={}) -> Tensor:
        """(B, M, d), after they have read each other."""
        proxies = grid.layout.pool.average(img)
        return proxies + self.among(layer_norm(proxies), grid.proxies, None, transformer_options)

    def make_queries(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, H, N, D)."""
        return self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
