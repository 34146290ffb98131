"""The host's attention functions, with stand-ins for the packages that some of them call.

The packages need a card. A stand-in has the signature of the package's function and refuses what that refuses.
"""
from __future__ import annotations

import inspect
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.flux.math
import comfy.model_management
from comfy.ldm.modules import attention
from comfy.ldm.modules.diffusionmodules import mmdit
from mditface.mdit.mditface import layers
from mditface.mdit.mditface.adapter import streams
from mditface.mdit.mditface.adapter.families import sd3

PLAIN = ("attention_pytorch", "attention_sub_quad", "attention_split", "attention_basic")
PACKAGED = ("attention_sage", "attention_sage with masks", "attention3_sage", "attention_flash", "attention_xformers")
called: list[str] = []  # the stand-ins, as often as the host called them


@torch.compiler.disable
def sageattn(q: Tensor, k: Tensor, v: Tensor, tensor_layout="HND", is_causal=False, sm_scale=None, return_lse=False,
             **kwargs) -> Tensor:
    """SageAttention, which ignores what it does not know."""
    assert "attn_mask" not in kwargs and not is_causal
    return attend_sage(q, k, v, tensor_layout, sm_scale)


@torch.compiler.disable
def sageattn_with_masks(q: Tensor, k: Tensor, v: Tensor, tensor_layout="HND", is_causal=False, attn_mask=None,
                        sm_scale=None, return_lse=False, **kwargs) -> Tensor:
    """A fork of it."""
    assert not is_causal
    return attend_sage(q, k, v, tensor_layout, sm_scale, attn_mask)


def attend_sage(q, k, v, layout, scale, attn_mask=None):
    called.append("sage")
    if layout == "HND":
        return F.scaled_dot_product_attention(q, k, v, attn_mask, scale=scale)
    return attend_tokens_first(q, k, v, attn_mask, scale)


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, dropout_p=0.0, softmax_scale=None, causal=False) -> Tensor:
    called.append("flash")
    assert not causal
    return attend_tokens_first(q, k, v, None, softmax_scale)


@torch.compiler.disable
def memory_efficient_attention(query: Tensor, key: Tensor, value: Tensor, attn_bias=None, p=0.0, scale=None) -> Tensor:
    """xFormers demands a bias of full shape, in the queries' type, with rows of 16 bytes in half precision."""
    called.append("xformers")
    if attn_bias is not None:
        batch, queries, heads, _ = query.shape
        assert attn_bias.shape == (batch, heads, queries, key.shape[1])
        assert attn_bias.dtype == query.dtype and attn_bias.stride(-2) % 8 == 0
    return attend_tokens_first(query, key, value, attn_bias, scale)


def attend_tokens_first(q, k, v, attn_mask, scale) -> Tensor:
    """Attention of (B, T, H, D), as the packages lay tokens out."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask, scale=scale).transpose(1, 2)


def use(name: str, monkeypatch):
    """Makes a function of PLAIN or PACKAGED the host's attention, for the host's models and ours."""
    sage = sageattn_with_masks if name.endswith("with masks") else sageattn
    monkeypatch.setattr(attention, "sageattn", sage, raising=False)
    monkeypatch.setattr(attention, "SAGE_ATTENTION_SUPPORTS_MASK", "attn_mask" in inspect.signature(sage).parameters)
    monkeypatch.setattr(attention, "flash_attn_func", flash_attn_func, raising=False)
    ops = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setattr(attention, "xformers", SimpleNamespace(ops=ops), raising=False)
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled", lambda: name == "attention_pytorch")
    for module in (comfy.ldm.flux.math, mmdit, streams, sd3, layers):
        monkeypatch.setattr(module, "optimized_attention", getattr(attention, name.split()[0]))
    called.clear()


def packages_of(name: str) -> set[str]:
    """The stand-ins that a function calls on a CPU; SageAttention 3 is for cards alone, and the host knows it."""
    return {package for package in ("sage", "flash", "xformers") if name.startswith(f"attention_{package}")}
