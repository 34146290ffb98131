"""The block of three streams (docs/design/mditface.md, section 3.3): image and text read the mask, the mask reads
itself."""
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
from .attention import AttentionCall, MaskRows, ReadPattern, attend_at_once, attend_masks, host_uses_pytorch
from .proxy_stream import ProxyGrid, ProxyStream


class Modulation(NamedTuple):
    """Shift, scale and gate of the attention (1) and of the MLP (2), each (B, 1, d): a, b, g of the paper."""
    a1: Tensor
    b1: Tensor
    g1: Tensor
    a2: Tensor
    b2: Tensor
    g2: Tensor


class LowRank(nn.Module):
    """The term alpha/r * B A that a mask stream adds to a layer of the image stream."""

    def __init__(self, n_in: int, n_out: int, rank: int, alpha: float, dtype=None, device=None, operations=None):
        super().__init__()
        self.scale = alpha / rank
        self.down = operations.Linear(n_in, rank, bias=False, dtype=dtype, device=device)
        self.up = operations.Linear(rank, n_out, bias=False, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) * self.scale


class Stream(nn.Module):
    """Weights of one stream in one block. `lora` replaces each layer f by f + lora[f].

    constant: the modulation is the same for every time and text, and is stored itself.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, qk_norm: str, constant: bool = False, dtype=None,
                 device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = heads
        self.constant = constant
        if constant:
            self.mod = operations.Embedding(1, 6 * width, **factory)
        else:
            self.mod = operations.Linear(width, 6 * width, **factory)
        self.qkv = operations.Linear(width, 3 * width, **factory)
        if qk_norm == "rms":
            self.q_norm = operations.RMSNorm(width // heads, eps=1e-6, **factory)
            self.k_norm = operations.RMSNorm(width // heads, eps=1e-6, **factory)
        else:
            self.q_norm = nn.Identity()
            self.k_norm = nn.Identity()
        self.proj = operations.Linear(width, width, **factory)
        self.fc1 = operations.Linear(width, int(width * mlp_ratio), **factory)
        self.fc2 = operations.Linear(int(width * mlp_ratio), width, **factory)

    def run_layer(self, name: str, x: Tensor, lora: nn.ModuleDict | None) -> Tensor:
        y = getattr(self, name)(x)
        return y if lora is None else y + lora[name](x)

    def make_modulation(self, vec: Tensor, lora: nn.ModuleDict | None = None) -> Modulation:
        if self.constant:
            parts = self.mod(torch.zeros(1, dtype=torch.long, device=vec.device)).to(vec.dtype)  # (1, 6 d)
        else:
            parts = self.run_layer("mod", F.silu(vec), lora)  # (B, 6 d)
        return Modulation._make(parts.unsqueeze(1).chunk(6, dim=-1))

    def make_qkv(self, h: Tensor, mod: Modulation, pe: Tensor | None, lora: nn.ModuleDict | None = None
                 ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.run_layer("qkv", modulate(layer_norm(h), mod.a1, mod.b1), lora)
        q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, T, D)
        q = self.q_norm(q)
        k = self.k_norm(k)
        if pe is not None:
            q = apply_rope1(q, pe)
            k = apply_rope1(k, pe)
        return q, k, v

    def add_residuals(self, h: Tensor, attention: Tensor, mod: Modulation, lora: nn.ModuleDict | None = None) -> Tensor:
        h = torch.addcmul(h, mod.g1, self.run_layer("proj", attention, lora))
        x = F.gelu(self.run_layer("fc1", modulate(layer_norm(h), mod.a2, mod.b2), lora), approximate="tanh")
        return torch.addcmul(h, mod.g2, self.run_layer("fc2", x, lora))


class MDiTBlock(nn.Module):
    """One block. `forward` is the dynamic path, `run_static` the mask stream's."""

    def __init__(self, config, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.heads = config.heads
        self.text_reads_mask = config.text_reads_mask
        image_ratio, text_ratio, mask_ratio = config.mlp_ratio
        self.img = Stream(config.width, config.heads, image_ratio, config.qk_norm, **factory)
        self.txt = Stream(config.width, config.heads, text_ratio, config.qk_norm, **factory)
        if config.own_mask_weights:
            self.msk = Stream(config.width, config.heads, mask_ratio, config.qk_norm, config.mask_vec == "constant",
                              **factory)
        if config.lora_rank:
            stream = self.msk if config.own_mask_weights else self.img
            self.msk_lora = nn.ModuleDict({
                name: LowRank(layer.in_features, layer.out_features, config.lora_rank, config.lora_alpha, **factory)
                for name, layer in stream.named_children() if name in ("mod", "qkv", "proj", "fc1", "fc2")})
        if config.proxy_window:
            self.proxy = ProxyStream(config.width, config.heads, **factory)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor | None, mask_rows: Sequence[MaskRows],
                index: int, transformer_options={}, proxy_grid: ProxyGrid | None = None) -> tuple[Tensor, Tensor]:
        """Image tokens (B, N, d) and text tokens (B, L, d) after block `index`."""
        mod_x = self.img.make_modulation(vec)
        mod_p = self.txt.make_modulation(vec)
        if proxy_grid is None:
            qx, kx, vx = self.img.make_qkv(img, mod_x, pe)  # (B, H, N, D)
        else:
            img = self.proxy.read_windows(img, vec, proxy_grid, transformer_options)
            qx, kx, vx = self.make_proxy_qkv(img, mod_x, pe, proxy_grid, transformer_options)
        qp, kp, vp = self.txt.make_qkv(txt, mod_p, None)  # (B, H, L, D)
        q = torch.cat((qp, qx), dim=2)  # (B, H, L+N, D)
        k = torch.cat((kp, kx), dim=2)  # (B, H, L+N, D); with proxies their number for N
        v = torch.cat((vp, vx), dim=2)
        out = self.attend(q, k, v, txt.shape[1], mask_rows, index, transformer_options)  # (B, L+N, d)
        txt_out, img_out = out.split((txt.shape[1], img.shape[1]), dim=1)
        return self.img.add_residuals(img, img_out, mod_x), self.txt.add_residuals(txt, txt_out, mod_p)

    def make_proxy_qkv(self, img: Tensor, mod: Modulation, pe: Tensor | None, grid: ProxyGrid, transformer_options
                       ) -> tuple[Tensor, Tensor, Tensor]:
        """The image tokens' q (B, H, N, D), and k and v (B, H, M, D) of the proxies that stand for them."""
        _, k, v = self.img.make_qkv(self.proxy.make_proxies(img, grid, transformer_options), mod, grid.proxies)
        q = self.img.q_norm(self.proxy.make_queries(modulate(layer_norm(img), mod.a1, mod.b1)))
        return q if pe is None else apply_rope1(q, pe), k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, text_length: int, mask_rows: Sequence[MaskRows], index: int,
               transformer_options) -> Tensor:
        """Attention of q (B, H, L+N, D), text queries first, to k and v and to the masks: (B, L+N, d)."""
        def kernel(q, k, v, attn_mask=None) -> Tensor:
            return optimized_attention(q, k, v, self.heads, mask=attn_mask, skip_reshape=True,
                                       transformer_options=transformer_options)

        if not mask_rows:
            return kernel(q, k, v)
        call = AttentionCall(q, k, v, None, kernel)
        pattern = ReadPattern(text_length, self.text_reads_mask)
        if "optimized_attention_override" in transformer_options:
            return attend_at_once(call, mask_rows, index, pattern)
        return attend_masks(call, mask_rows, index, pattern, use_lse=host_uses_pytorch())

    def run_static(self, msk: Tensor, vec: Tensor, pe: Tensor | None, last: bool
                   ) -> tuple[Tensor | None, Tensor, Tensor]:
        """The mask tokens (b, M, d) after this block, and their keys and values (b, H, M, D).

        No other block reads the last block's tokens, so they are not computed.
        """
        stream = getattr(self, "msk", self.img)
        lora = getattr(self, "msk_lora", None)
        mod = stream.make_modulation(vec, lora)
        q, k, v = stream.make_qkv(msk, mod, pe, lora)
        if last:
            return None, k, v
        out = optimized_attention(q, k, v, self.heads, skip_reshape=True)
        return stream.add_residuals(msk, out, mod, lora), k, v
