"""The multivariate block (spec section 3.3): three streams, one attention that the mask stream never waits for."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention

from ..shared.norm import layer_norm, modulate
from .attention import MaskRows, Reach, attend_at_once, attend_masks, is_pytorch
from .proxy_stream import ProxyStream, Surroundings


class Modulation(NamedTuple):
    """Shift, scale and gate of the attention (1) and of the MLP (2), each (B, 1, d): a, b, g of the paper."""
    a1: Tensor
    b1: Tensor
    g1: Tensor
    a2: Tensor
    b2: Tensor
    g2: Tensor


class LowRank(nn.Module):
    """The term alpha/r * B A that a mask stream adds to a layer of the image stream (spec section 3.6)."""

    def __init__(self, n_in: int, n_out: int, rank: int, alpha: float, dtype=None, device=None, operations=None):
        super().__init__()
        self.scale = alpha / rank
        self.down = operations.Linear(n_in, rank, bias=False, dtype=dtype, device=device)
        self.up = operations.Linear(rank, n_out, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) * self.scale


class Stream(nn.Module):
    """Weights of one stream in one block. `lora` replaces each layer f by f + lora[f]."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, qk_norm: str, dtype=None, device=None,
                 operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = heads
        self.mod = operations.Linear(width, 6 * width, **factory)
        self.qkv = operations.Linear(width, 3 * width, **factory)
        if qk_norm == "rms":
            self.q_norm = operations.RMSNorm(width // heads, eps=1e-6, **factory)
            self.k_norm = operations.RMSNorm(width // heads, eps=1e-6, **factory)
        else:
            self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.proj = operations.Linear(width, width, **factory)
        self.fc1 = operations.Linear(width, int(width * mlp_ratio), **factory)
        self.fc2 = operations.Linear(int(width * mlp_ratio), width, **factory)

    def layer(self, name: str, x: Tensor, lora: nn.ModuleDict | None) -> Tensor:
        y = getattr(self, name)(x)
        return y if lora is None else y + lora[name](x)

    def modulation(self, vec: Tensor, lora: nn.ModuleDict | None = None) -> Modulation:
        return Modulation(*self.layer("mod", F.silu(vec), lora).unsqueeze(1).chunk(6, dim=-1))

    def attention_inputs(self, h: Tensor, mod: Modulation, pe: Tensor | None, lora: nn.ModuleDict | None = None
                         ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer("qkv", modulate(layer_norm(h), mod.a1, mod.b1), lora)
        q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D)
        q, k = self.q_norm(q), self.k_norm(k)
        if pe is not None:
            q, k = apply_rope1(q, pe), apply_rope1(k, pe)
        return q, k, v

    def residual(self, h: Tensor, attention: Tensor, mod: Modulation, lora: nn.ModuleDict | None = None) -> Tensor:
        h = torch.addcmul(h, mod.g1, self.layer("proj", attention, lora))
        x = F.gelu(self.layer("fc1", modulate(layer_norm(h), mod.a2, mod.b2), lora), approximate="tanh")
        return torch.addcmul(h, mod.g2, self.layer("fc2", x, lora))


class MDiTBlock(nn.Module):
    """One multivariate block. `forward` is the dynamic path, `static` the mask stream's."""

    def __init__(self, config, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.heads = config.heads
        self.text_reads_mask = config.text_reads_mask
        image, text, mask = (
            (config.width, config.heads, ratio, config.qk_norm) for ratio in config.mlp_ratio)
        self.img = Stream(*image, **factory)
        self.txt = Stream(*text, **factory)
        if config.own_mask_weights:
            self.msk = Stream(*mask, **factory)
        if config.lora_rank:
            stream = self.msk if config.own_mask_weights else self.img
            self.msk_lora = nn.ModuleDict({
                name: LowRank(layer.in_features, layer.out_features, config.lora_rank, config.lora_alpha, **factory)
                for name, layer in stream.named_children() if name in ("mod", "qkv", "proj", "fc1", "fc2")})
        if config.proxy_window:
            self.proxy = ProxyStream(config.width, config.heads, **factory)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor | None, masks: Sequence[MaskRows], index: int,
                transformer_options={}, near: Surroundings | None = None) -> tuple[Tensor, Tensor]:
        mod_x, mod_p = self.img.modulation(vec), self.txt.modulation(vec)
        if near is None:
            image_inputs = self.img.attention_inputs(img, mod_x, pe)
        else:
            img = self.proxy.look_around(img, vec, near, transformer_options)
            image_inputs = self.proxy_inputs(img, mod_x, pe, near, transformer_options)
        inputs = zip(self.txt.attention_inputs(txt, mod_p, None), image_inputs)
        q, k, v = (torch.cat(pair, dim=2) for pair in inputs)  # (B, H, L+N, D); with proxies M for N in k and v
        out = self.attention(q, k, v, txt.shape[1], masks, index, transformer_options)  # (B, L+N, d)
        txt_out, img_out = out.split((txt.shape[1], img.shape[1]), dim=1)
        return self.img.residual(img, img_out, mod_x), self.txt.residual(txt, txt_out, mod_p)

    def proxy_inputs(self, img: Tensor, mod: Modulation, pe: Tensor | None, near: Surroundings, transformer_options
                     ) -> tuple[Tensor, Tensor, Tensor]:
        """The image tokens' q (B, H, N, D), and k and v (B, H, M, D) of the proxies that stand for them."""
        _, k, v = self.img.attention_inputs(self.proxy.proxies(img, near, transformer_options), mod, near.proxies)
        q = self.img.q_norm(self.proxy.queries(modulate(layer_norm(img), mod.a1, mod.b1)))
        return q if pe is None else apply_rope1(q, pe), k, v

    def attention(self, q, k, v, text_length, masks, index, transformer_options) -> Tensor:
        def attention(q, k, v, mask=None) -> Tensor:
            return optimized_attention(q, k, v, self.heads, mask=mask, skip_reshape=True,
                                       transformer_options=transformer_options)

        if not masks:
            return attention(q, k, v)
        given = q, k, v, None, masks, index, Reach(text_length, self.text_reads_mask), attention
        if "optimized_attention_override" in transformer_options:
            return attend_at_once(*given)
        return attend_masks(*given, is_pytorch(optimized_attention))

    def static(self, msk: Tensor, vec: Tensor, pe: Tensor | None, last: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        """The mask tokens (b, M, d) after this block, and their keys and values (b, H, M, D).

        The last block's tokens are read by nobody, so they are not computed.
        """
        stream, lora = getattr(self, "msk", self.img), getattr(self, "msk_lora", None)
        mod = stream.modulation(vec, lora)
        q, k, v = stream.attention_inputs(msk, mod, pe, lora)
        if last:
            return None, k, v
        out = optimized_attention(q, k, v, self.heads, skip_reshape=True)
        return stream.residual(msk, out, mod, lora), k, v

