"""The MMFace-DiT block (docs/design/mmface-dit.md, section 4). Layers carry their published names."""
from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from comfy.ldm.flux.math import apply_rope
from comfy.ldm.modules.attention import optimized_attention

from ..shared.norm import layer_norm, modulate


def build_modulation(width: int, count: int, dtype=None, device=None, operations=None) -> nn.Sequential:
    """A vector (B, d) -> `count` vectors (B, count * d)."""
    return nn.Sequential(nn.SiLU(), operations.Linear(width, count * width, dtype=dtype, device=device))


def build_mlp(width: int, dtype=None, device=None, operations=None) -> nn.Sequential:
    factory = {"dtype": dtype, "device": device}
    return nn.Sequential(operations.Linear(width, 4 * width, **factory), nn.GELU(approximate="tanh"),
                         operations.Linear(4 * width, width, **factory))


class JointAttention(nn.Module):
    """Image and text tokens attend to all tokens of both, each with weights of its own (`_t`: the text's)."""

    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.heads = heads
        for name in ("to_q", "to_k", "to_v", "to_out"):
            for stream in ("", "_t"):
                layer = operations.Linear(width, width, bias=False, dtype=dtype, device=device)
                self.add_module(name + stream, layer)

    def forward(self, img: Tensor, txt: Tensor, pe: Tensor, transformer_options: dict = {}) -> tuple[Tensor, Tensor]:
        """img (B, N, d), txt (B, L, d), pe the rotation of all tokens, the image's first -> both, after `to_out`."""
        q = self.join(self.to_q(img), self.to_q_t(txt))  # (B, H, N + L, D)
        k = self.join(self.to_k(img), self.to_k_t(txt))
        v = self.join(self.to_v(img), self.to_v_t(txt))
        q, k = apply_rope(q, k, pe)
        out = optimized_attention(q, k, v, self.heads, skip_reshape=True, transformer_options=transformer_options)
        img_out, txt_out = out.split((img.shape[1], txt.shape[1]), dim=1)
        return self.to_out(img_out), self.to_out_t(txt_out)

    def join(self, img: Tensor, txt: Tensor) -> Tensor:
        """(B, N, d), (B, L, d) -> (B, H, N + L, D)."""
        return torch.cat((img, txt), dim=1).unflatten(2, (self.heads, -1)).transpose(1, 2)


class MMFaceBlock(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        layers = {"dtype": dtype, "device": device, "operations": operations}
        self.attn = JointAttention(width, heads, **layers)
        self.mlp_i = build_mlp(width, **layers)
        self.mlp_t = build_mlp(width, **layers)
        self.adaLN_modulation = build_modulation(width, 12, **layers)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, transformer_options: dict = {}
                ) -> tuple[Tensor, Tensor]:
        """img (B, N, d), txt (B, L, d), vec (B, d) of time, pooled text and kind of condition -> img, txt."""
        m = self.adaLN_modulation(vec).unsqueeze(1).chunk(12, dim=2)  # six for the image, then six for the text
        u = modulate(layer_norm(img), m[0], m[1])
        v = modulate(layer_norm(txt), m[6], m[7])
        img_out, txt_out = self.attn(u, v, pe, transformer_options)
        img = torch.addcmul(img, m[2], img_out)
        txt = torch.addcmul(txt, m[8], txt_out)
        img = torch.addcmul(img, m[5], self.mlp_i(modulate(layer_norm(img), m[3], m[4])))
        return img, torch.addcmul(txt, m[11], self.mlp_t(modulate(layer_norm(txt), m[9], m[10])))


class FinalLayer(nn.Module):
    def __init__(self, width: int, features: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.adaLN_modulation = build_modulation(width, 2, dtype, device, operations)
        self.linear = operations.Linear(width, features, dtype=dtype, device=device)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vec).unsqueeze(1).chunk(2, dim=2)
        return self.linear(modulate(layer_norm(x), shift, scale))


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, width: int, patch: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.proj = operations.Conv2d(channels, width, patch, patch, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h * patch, w * patch) -> (B, N, d), row by row."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbed(nn.Module):
    def __init__(self, features: int, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.features = features
        self.mlp = nn.Sequential(operations.Linear(features, width, dtype=dtype, device=device), nn.SiLU(),
                                 operations.Linear(width, width, dtype=dtype, device=device))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Times (B,) in 0..999 -> (B, d)."""
        return self.mlp(compute_waves(t, self.features).to(dtype))


class PooledEmbed(nn.Module):
    """The pooled text. `null_feature_pooled` stood in for it in 5 % of the training; sampling never uses it."""

    def __init__(self, text: int, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.proj = operations.Linear(text, width, dtype=dtype, device=device)
        self.null_feature_pooled = nn.Parameter(torch.empty(text, dtype=dtype, device=device))

    def forward(self, y: Tensor) -> Tensor:
        return self.proj(y)


def compute_waves(t: Tensor, count: int) -> Tensor:
    """Cosines, then sines, of times (B,), (B, count) float32. The frequencies are computed in float64."""
    half = count // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = t.float()[:, None] * frequencies.to(t.device, torch.float32)
    return torch.cat((angles.cos(), angles.sin()), dim=1)
