"""Stand-ins for a card's attention kernels. They refuse what the real ones refuse, then compute on the CPU.

The conditions are those of PyTorch's sdp_utils.cpp and of the kernels themselves.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)


class Refused(RuntimeError):
    """Inputs that the real kernel refuses."""


class Params(NamedTuple):
    """What PyTorch's questions about kernels get: stands for torch.backends.cuda.SDPAParams."""
    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None
    dropout: float
    is_causal: bool
    enable_gqa: bool


def make_questions(capability: tuple[int, int]) -> dict:
    """Stand-ins for the functions of torch.backends.cuda that tell which kernel can be used."""
    def can_use_flash_attention(params: Params, debug: bool = False) -> bool:
        return params.attn_mask is None and why_not_flash(capability, params.query, params.key, params.value) is None

    def can_use_efficient_attention(params: Params, debug: bool = False) -> bool:
        return why_not_efficient(capability, params.query, params.key, params.value) is None

    def can_use_cudnn_attention(params: Params, debug: bool = False) -> bool:
        return False
    return {"SDPAParams": Params, "can_use_flash_attention": can_use_flash_attention,
            "can_use_efficient_attention": can_use_efficient_attention,
            "can_use_cudnn_attention": can_use_cudnn_attention}


def find_alignment(capability: tuple[int, int], dtype: torch.dtype) -> int:
    """Of which number head widths must be multiples in the memory-efficient kernel."""
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and dtype in HALF)
    least = 4 if capability >= (8, 0) else 1
    return max(least, 128 // (16 if dtype in HALF else 32)) if tensor_cores else least


def why_not_any(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if any(x.ndim != 4 for x in (q, k, v)):
        return "tensors must be (B, H, T, D)"
    if {x.device for x in (q, k, v)} != {q.device} or q.device.type != "cuda":
        return "tensors must lie on one card"
    if {x.dtype for x in (q, k, v)} != {q.dtype}:
        return "tensors must have one type"
    if any(0 in x.shape for x in (q, k, v)):
        return "tensors must not be empty"
    if k.shape[:3] != v.shape[:3] or q.shape[:2] != k.shape[:2]:
        return f"batch and heads must be equal: {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
    if any(x.stride(-1) != 1 for x in (q, k, v)):
        return "the last dimension must be contiguous"
    return None


def why_not_flash(capability: tuple[int, int], q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why PyTorch's attention does not take its flash kernel; None where it does."""
    if capability < (8, 0):
        return f"a card of capability {capability}"
    if q.dtype not in HALF:
        return f"type {q.dtype}"
    if q.shape[-1] > 256 or {x.shape[-1] for x in (q, k, v)} != {q.shape[-1]}:
        return f"head width {q.shape[-1]}"
    return why_not_any(q, k, v)


def why_not_efficient(capability: tuple[int, int], q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """Why PyTorch's attention does not take its memory-efficient kernel; None where it does."""
    types = (torch.float16, torch.float32, torch.bfloat16) if capability >= (8, 0) else (torch.float16, torch.float32)
    if q.dtype not in types:
        return f"type {q.dtype} on a card of capability {capability}"
    alignment = find_alignment(capability, q.dtype)
    if q.shape[-1] % alignment or v.shape[-1] % alignment or q.shape[-1] != k.shape[-1]:
        return f"head width {q.shape[-1]}"
    if capability >= (8, 0) and any(x.storage_offset() % alignment for x in (q, k, v)):
        return "a storage offset that is not aligned"
    return why_not_any(q, k, v)


class Flash:
    """aten._scaled_dot_product_flash_attention. Called directly, it pads no head width."""
    def check(self, capability, q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, scale=None):
        reason = why_not_flash(capability, q, k, v)
        if reason is None and q.shape[-1] % 8:
            reason = f"head width {q.shape[-1]} is no multiple of 8"
        if reason:
            raise Refused(f"flash attention: {reason}")

    def __call__(self, q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, scale=None):
        out, lse = attend(q, k, v, None, scale)
        return out, lse, None, None, q.shape[2], k.shape[2], None, None, None


class Efficient:
    """aten._scaled_dot_product_efficient_attention. Its log-sum-exp is padded to whole groups of 32 queries."""
    def check(self, capability, q, k, v, bias, compute_lse, dropout_p=0.0, is_causal=False, scale=None):
        reason = why_not_efficient(capability, q, k, v)
        if reason is None and bias is not None:
            reason = self.why_not_biased(capability, q, k, bias)
        if reason:
            raise Refused(f"memory-efficient attention: {reason}")

    def why_not_biased(self, capability, q, k, bias) -> str | None:
        if bias.dtype != q.dtype or bias.device != q.device:
            return f"a bias of type {bias.dtype} on {bias.device}"
        if tuple(bias.shape) != (*q.shape[:3], k.shape[2]):
            return f"a bias of shape {tuple(bias.shape)}"
        if bias.stride(-1) != 1 and bias.shape[-1] > 1:
            return "a bias whose rows are not contiguous"
        alignment = find_alignment(capability, q.dtype)
        if any(stride % alignment for stride in bias.stride()[:-1]):
            return f"a bias with strides {bias.stride()}"
        return None

    def __call__(self, q, k, v, bias, compute_lse, dropout_p=0.0, is_causal=False, scale=None):
        out, lse = attend(q, k, v, bias, scale)
        lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)
        return out, lse, torch.zeros((), dtype=torch.long), torch.zeros((), dtype=torch.long)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """Attention in float32, rounded once, in memory (B, T, H, D); and the log-sum-exp (B, H, T) in float32."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = q.float() @ k.float().mT * scale  # (B, H, T, K)
    if bias is not None:
        logits = logits + bias.float()
    out = logits.softmax(-1) @ v.float()
    return out.to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2), logits.logsumexp(-1)


STAND_INS = {
    aten._scaled_dot_product_flash_attention: Flash(),
    aten._scaled_dot_product_efficient_attention: Efficient(),
}
