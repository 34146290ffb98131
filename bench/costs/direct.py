"""PT-DiT's block written straight from its formulas, as the authors' program runs it, for comparison.

See docs/design/pt-dit.md, section 6.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mditface.mdit.pt_dit.layers import Attention, PTDiTBlock
from mditface.mdit.shared.windows import MASKED, Grid3D


def attend_all_pairs(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The formula as it stands, (B, H, T or K, D); the matrix of all pairs is made."""
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(logits if bias is None else logits + bias, dim=-1) @ v


def attend(layer: Attention, x: Tensor, read: Tensor, bias: Tensor | None, attention: Callable) -> Tensor:
    """x (B, T, d), read (B, K, d), bias (B, T or 1, K)."""
    def split_heads(y: Tensor) -> Tensor:
        return y.unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    q = split_heads(layer.to_q(x))  # (B, H, T, D)
    k = split_heads(layer.to_k(read))  # (B, H, K, D)
    v = split_heads(layer.to_v(read))
    out = attention(q, k, v, None if bias is None else bias.unsqueeze(1))
    return layer.to_out(out.transpose(1, 2).reshape(x.shape))


def to_windows(x: Tensor, window: Grid3D) -> Tensor:
    """(B, F, H, W, d) -> (B * nw, P, d)."""
    B, frames, rows, columns, d = x.shape
    f, h, w = window
    x = x.view(B, frames // f, f, rows // h, h, columns // w, w, d).permute(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(-1, f * h * w, d)


def from_windows(x: Tensor, shape: torch.Size, window: Grid3D) -> Tensor:
    """(B * nw, P, d) -> shape (B, F, H, W, d)."""
    B, frames, rows, columns, d = shape
    f, h, w = window
    x = x.view(B, frames // f, rows // h, columns // w, f, h, w, d).permute(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(shape)


def make_shifted_mask(shape: torch.Size, window: Grid3D) -> Tensor:
    """(nw, P, P), 0 or MASKED."""
    regions = torch.zeros(1, *shape[1:4], 1)
    for axis, side in enumerate(window, 1):
        n = shape[axis]
        s = side // 2
        part = torch.arange(n)
        part = (part >= n - side).long() + (part >= n - s) if s else 0 * part
        regions = 3 * regions + part.view([n if i == axis else 1 for i in range(5)])
    regions = to_windows(regions, window).squeeze(-1)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED)


def normalize(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def run_direct_block(block: PTDiTBlock, x: Tensor, text: Tensor, text_bias: Tensor | None, vec: Tensor, grid: Grid3D,
                     window: Grid3D, mask: Tensor, attention: Callable = attend_all_pairs) -> Tensor:
    """The image tokens (B, N, d) after a block with one proxy a window, for windows that fit the grid.

    x: (B, N, d). text: (B, L, d). text_bias: (B, 1, L). vec: (B, 6, d).
    mask: of `make_shifted_mask`, (B * nw, P, P). The authors store it, too.
    attention: may be PyTorch's fused one, which the authors' program calls.
    """
    B, N, d = x.shape
    shape = torch.Size((B, *grid, d))
    m = (block.scale_shift_table + vec).chunk(6, dim=1)  # each (B, 1, d)
    n = (block.proxy_scale_shift_table + vec[:, :3]).chunk(3, dim=1)
    proxies = to_windows(x.view(shape), window).mean(1).view(B, -1, d)
    proxies = proxies + attend(block.proxy_attn1, normalize(proxies), normalize(proxies), None, attention)
    x = x + block.linear_1_visual(attend(block.pvisual_attn2, normalize(x), normalize(proxies), None, attention))

    near = to_windows((normalize(x) * (1 + m[1]) + m[0]).view(shape), window)
    x = x + m[2] * from_windows(attend(block.attn1, near, near, None, attention), shape, window).view(B, N, d)

    shift = [side // 2 for side in window]
    near = torch.roll((normalize(x) * (1 + n[1]) + n[0]).view(shape), [-s for s in shift], (1, 2, 3))
    near = to_windows(near, window)
    near = from_windows(attend(block.attn3, near, near, mask, attention), shape, window)
    x = x + block.linear_2(n[2] * torch.roll(near, shift, (1, 2, 3)).view(B, N, d))

    x = x + attend(block.attn2, x, text, text_bias, attention)
    hidden = F.gelu(block.ff.net[0].proj(normalize(x) * (1 + m[4]) + m[3]), approximate="tanh")
    return x + m[5] * block.ff.net[2](hidden)
