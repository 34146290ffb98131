"""The PT-DiT block (docs/design/pt-dit.md, section 6). Layers carry their published names."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention

from ..shared.norm import layer_norm, modulate
from ..shared.windows import WindowLayout, WindowPartition


def split_modulation(table: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """The rows of a table (k, d), added to vectors (B, k or 1, d), each (B, 1, d)."""
    return (comfy.ops.cast_to_input(table, vectors) + vectors).unsqueeze(2).unbind(1)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.heads = heads
        self.to_q = operations.Linear(width, width, **factory)
        self.to_k = operations.Linear(width, width, **factory)
        self.to_v = operations.Linear(width, width, **factory)
        self.to_out = nn.Sequential(operations.Linear(width, width, **factory))

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None = None,
                transformer_options: dict = {}) -> Tensor:
        """Attention of x (B, T, d) to the context (B, K, d), with a bias (B, T or 1, K) on the logits."""
        if context.shape[1] == 1:  # such as the empty prompt: the softmax over one key is 1
            return self.to_out(self.to_v(context)).expand_as(x)
        return self.to_out(self.attend(x, context, bias, transformer_options))

    def attend(self, x: Tensor, context: Tensor, bias: Tensor | None, transformer_options: dict) -> Tensor:
        """The concatenated heads (B, T, d), before `to_out`."""
        return optimized_attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads, mask=bias,
                                   transformer_options=transformer_options)


def chain_linears(x: Tensor, first: nn.Module, gate: Tensor, second: nn.Module) -> Tensor:
    """second(gate * first(x)) for x (B, N, d), gate (B or 1, 1, d) and two linear layers.

    If the tokens outnumber the width, it costs less to multiply the two matrices first: N + d rows instead of 2N.
    """
    if x.shape[1] <= x.shape[2] or is_overridden(first) or is_overridden(second):
        return second(gate * first(x))
    outer, outer_bias, stream = comfy.ops.cast_bias_weight(second, x, offloadable=True)
    outer = outer * gate  # (B or 1, d, d); a copy, as the next cast may take the same memory
    outer_bias = outer_bias.clone()
    comfy.ops.uncast_bias_weight(second, outer, outer_bias, stream)
    inner, inner_bias, stream = comfy.ops.cast_bias_weight(first, x, offloadable=True)
    product = outer @ inner  # (B or 1, d, d)
    bias = (outer @ inner_bias + outer_bias).unsqueeze(1)  # (B or 1, 1, d)
    comfy.ops.uncast_bias_weight(first, inner, inner_bias, stream)
    return torch.baddbmm(bias, x, product.mT.expand(len(x), -1, -1))


def is_overridden(layer: nn.Module) -> bool:
    """Whether a layer does more than its weights say: it has hooks, or a LoRA in bypass mode replaced `forward`."""
    own = getattr(layer.forward, "__func__", None) is type(layer).forward
    return not own or bool(layer._forward_hooks or layer._forward_pre_hooks)


class Gelu(nn.Module):
    def __init__(self, width: int, hidden: int, dtype=None, device=None, operations=None):
        super().__init__()
        self.proj = operations.Linear(width, hidden, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.net = nn.Sequential(Gelu(width, 4 * width, **factory, operations=operations), nn.Identity(),
                                 operations.Linear(4 * width, width, **factory))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PTDiTBlock(nn.Module):
    def __init__(self, width: int, heads: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        layers = {**factory, "operations": operations}
        self.proxy_attn1 = Attention(width, heads, **layers)
        self.pvisual_attn2 = Attention(width, heads, **layers)
        self.linear_1_visual = operations.Linear(width, width, **factory)
        self.attn1 = Attention(width, heads, **layers)
        self.attn3 = Attention(width, heads, **layers)
        self.linear_2 = operations.Linear(width, width, **factory)
        self.attn2 = Attention(width, heads, **layers)
        self.ff = FeedForward(width, **layers)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width, **factory))
        self.proxy_scale_shift_table = nn.Parameter(torch.empty(3, width, **factory))

    def forward(self, x: Tensor, text: Tensor, text_bias: Tensor | None, vec: Tensor, layout: WindowLayout,
                transformer_options: dict = {}) -> Tensor:
        """x (B, N, d), text (B, L, d) with bias (B, 1, L), vec (B, 6, d) from the time -> (B, N, d)."""
        m = split_modulation(self.scale_shift_table, vec)
        n = split_modulation(self.proxy_scale_shift_table, vec[:, :3])
        x = x + self.read_proxies(x, layout, transformer_options)
        y = modulate(layer_norm(x), m[0], m[1])
        y = attend_in_windows(self.attn1, y, layout.plain, transformer_options)
        x = torch.addcmul(x, m[2], self.attn1.to_out(y))
        y = modulate(layer_norm(x), n[0], n[1])
        y = attend_in_windows(self.attn3, y, layout.shifted, transformer_options)
        x = x + chain_linears(y, self.attn3.to_out[0], n[2], self.linear_2)
        x = x + self.attn2(x, text, text_bias, transformer_options)
        return torch.addcmul(x, m[5], self.ff(modulate(layer_norm(x), m[3], m[4])))

    def read_proxies(self, x: Tensor, layout: WindowLayout, transformer_options: dict) -> Tensor:
        """What the tokens (B, N, d) read from the proxies, after these have attended to each other."""
        proxies = layout.pool.average(x)  # (B, M, d)
        z = layer_norm(proxies)
        proxies = proxies + self.proxy_attn1(z, z, None, transformer_options)
        y = self.pvisual_attn2.attend(layer_norm(x), layer_norm(proxies), None, transformer_options)  # (B, N, d)
        return chain_linears(y, self.pvisual_attn2.to_out[0], x.new_ones(1, 1, 1), self.linear_1_visual)


def attend_in_windows(attention: Attention, x: Tensor, partition: WindowPartition, transformer_options: dict) -> Tensor:
    """The heads of an attention inside windows, before `to_out`: (B, N, d) -> (B, N, d)."""
    x = partition.split(x)  # (B * nw, P, d)
    return partition.join(attention.attend(x, x, partition.bias, transformer_options))
