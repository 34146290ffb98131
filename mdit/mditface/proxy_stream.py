"""An image stream for large grids (experimental; PT-DiT spec section 14): image tokens attend to each other inside
windows, and to the rest of the picture through proxy tokens, one a window. Its work grows with the number of tokens.
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


class Surroundings(NamedTuple):
    """What all blocks know of the grid, and what rotates q and k in windows (B * nw, 1, P, D/2, 2, 2), in shifted
    windows, and among the proxies (1, 1, M, D/2, 2, 2); None where positions are not rotations."""
    layout: WindowLayout
    plain: Tensor | None
    shifted: Tensor | None
    proxies: Tensor | None


def surroundings(window: int, grid: tuple[int, int], img: Tensor, places: Tensor,
                 rotation: Callable[[Tensor], Tensor | None]) -> Surroundings:
    """For image tokens (B, N, d) at `places` (N, 2) of a grid (h, w), in windows of `window` by `window` tokens."""
    layout = build_layout((1, *grid), (1, window, window), (1, 1), img)

    def in_windows(cut: WindowPartition) -> Tensor | None:
        pe = rotation(places[cut.token_of_slot])
        return None if pe is None else pe.unflatten(2, (-1, cut.slots))[0].transpose(0, 1).repeat(
            img.shape[0], *[1] * (pe.ndim - 1))
    return Surroundings(layout, in_windows(layout.plain), in_windows(layout.shifted),
                        rotation(layout.pool.average(places[None])[0]))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.heads = heads
        self.qkv = operations.Linear(width, 3 * width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor, pe: Tensor | None, bias: Tensor | None = None, transformer_options={}) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D)
        if pe is not None:
            q, k = apply_rope1(q, pe), apply_rope1(k, pe)
        return self.proj(optimized_attention(q, k, v, self.heads, mask=bias, skip_reshape=True,
                                             transformer_options=transformer_options))


class ProxyStream(nn.Module):
    """What the image stream of one block has beside its `Stream`, which serves the proxies and the MLP.

    With a modulation of zero it changes nothing in the tokens.
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

    def look_around(self, img: Tensor, vec: Tensor, near: Surroundings, transformer_options={}) -> Tensor:
        """Image tokens (B, N, d) after windows and shifted windows."""
        a1, b1, g1, a2, b2, g2 = self.mod(F.silu(vec)).unsqueeze(1).chunk(6, dim=-1)
        for attention, cut, pe, a, b, g in ((self.plain, near.layout.plain, near.plain, a1, b1, g1),
                                            (self.shifted, near.layout.shifted, near.shifted, a2, b2, g2)):
            windows = cut.split(modulate(layer_norm(img), a, b))
            img = torch.addcmul(img, g, cut.join(attention(windows, pe, cut.bias, transformer_options)))
        return img

    def proxies(self, img: Tensor, near: Surroundings, transformer_options={}) -> Tensor:
        """(B, M, d), after they have read each other."""
        proxies = near.layout.pool.average(img)
        return proxies + self.among(layer_norm(proxies), near.proxies, None, transformer_options)

    def queries(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, H, N, D)."""
        return self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
