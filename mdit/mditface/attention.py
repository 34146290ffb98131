"""How queries of the image and text streams read mask keys (spec sections 3.3, 5.3, 6.4 and 8)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.modules import attention as host_attention

from . import local_window


class ExemplarKeys(NamedTuple):
    """What image tokens read of an exemplar (see exemplar.py).

    `candidates` (b, N, C) numbers the keys that each looks at, `match` (b, N, r) tells which of them suit its place,
    and `kv[i]` gives the keys and values of the i-th block that reads. `strength` multiplies what is read, a number or
    (B, 1, 1).
    """
    candidates: Tensor
    match: Tensor
    kv: Sequence[tuple[Tensor, Tensor]]
    strength: float | Tensor = 1.0


class MaskRows(NamedTuple):
    """Which rows of a batch read which mask, and the exemplar on it.

    `kv[i]` gives block i's mask keys and values, each (b, H, M, D) with b = 1 or the number of latents, or in the
    form of `local_window.strips`; None where the rows have no mask. `bias` is added to the keys' logits, (1 or b, M),
    or in the form of `local_window.strip_bias`; None for zero.
    """
    rows: slice
    kv: Sequence[tuple[Tensor, Tensor]] | None
    bias: Tensor | None = None
    exemplar: ExemplarKeys | None = None


class Reach(NamedTuple):
    """Which queries read which mask keys.

    `text` is the number of text queries, which stand first, and `text_reads` whether they read the mask. With a
    `radius` above 0 only the queries of the image grid (h, w) do, each those keys that `window` says.
    """
    text: int
    text_reads: bool = True
    radius: int = 0
    grid: tuple[int, int] = (0, 0)

    def queries(self, length: int) -> slice:
        """The queries that read, out of `length`."""
        if self.radius:
            return slice(self.text, self.text + self.grid[0] * self.grid[1])
        return slice(0 if self.text_reads else self.text, length)


def attend_masks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, masks: Sequence[MaskRows], index: int,
                 reach: Reach, attention: Callable, fused: bool) -> Tensor:
    """Attention of q (B, H, T, D) to the keys and values k, v (B, H, K, D) and to block `index`'s of the masks.

    `mask` restricts the keys k, as for the host's attention, which `attention(q, k, v, mask)` is. `fused` allows
    kernels in its place that return the logits' log-sum-exp. Returns (B, T, H * D).
    """
    parts = []
    for rows, kv, bias, _ in masks:
        part = q[rows], k[rows], v[rows], mask if mask is None or mask.shape[0] == 1 or mask.ndim < 3 else mask[rows]
        if kv is None:
            parts.append(attention(*part))
        elif fused and returns_lse(q, bias is not None):
            parts.append(merged(*part, *kv[index], bias, reach))
        else:
            parts.append(joined(*part, *kv[index], bias, reach, attention))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def is_pytorch(function: Callable) -> bool:
    """Whether the host's attention function is the one that `with_lse` can stand in for."""
    plain = host_attention.attention_pytorch
    return function in (plain, plain.__wrapped__)


def returns_lse(q: Tensor, biased: bool) -> bool:
    """Whether a kernel with log-sum-exp serves these queries, and at least as well as one call over all keys.

    On CUDA the host may have a faster kernel without; a bias however would take it from all keys there.
    """
    if torch.is_grad_enabled():  # the kernels have no gradient through the log-sum-exp
        return False
    return q.device.type == "cpu" or (q.device.type == "cuda" and biased)


def with_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention (B, H, T, D) and the log-sum-exp of its logits (B, H, T), for a bias that broadcasts to them."""
    aten = torch.ops.aten
    if bias is not None:
        keys = bias.shape[-1]
        bias = F.pad(bias.to(q.dtype), (0, -keys % 8))[..., :keys]  # the CUDA kernel demands rows of 16 bytes
        bias = bias.expand(*q.shape[:3], keys)
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
    if bias is None and q.dtype != torch.float32:
        return aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[:2]
    return out, lse[..., :q.shape[2]]  # the kernel pads the queries


def merged(q, k, v, mask, mask_k, mask_v, bias, reach: Reach) -> Tensor:
    """Two attentions whose outputs are weighted by their log-sum-exp: exact, and no keys are copied (section 6.4)."""
    out, lse = with_lse(q, k, v, additive(mask, q))  # (B, H, T, D), (B, H, T)
    readers = reach.queries(q.shape[2])
    if reach.radius:
        read, read_lse = local_window.attend(q[:, :, readers], mask_k, mask_v, bias, reach.grid, reach.radius, with_lse)
    else:
        bias = None if bias is None else repeat(bias, q.shape[0])[:, None, None]  # (B, 1, 1, M)
        read, read_lse = with_lse(q[:, :, readers], repeat(mask_k, q.shape[0]), repeat(mask_v, q.shape[0]), bias)
    share = torch.sigmoid(read_lse - lse[:, :, readers]).unsqueeze(-1).to(out.dtype)
    out[:, :, readers].lerp_(read, share)
    return out.transpose(1, 2).flatten(2)


def joined(q, k, v, mask, mask_k, mask_v, bias, reach: Reach, attention: Callable) -> Tensor:
    """One attention over all keys; serves every kernel and gives gradients."""
    readers, length, own_keys = reach.queries(q.shape[2]), q.shape[2], k.shape[2]
    mask_k, mask_v, bias = dense(mask_k, mask_v, bias, reach, q)
    keys, values = torch.cat((k, mask_k), dim=2), torch.cat((v, mask_v), dim=2)
    parts = [attention(q[:, :, part], k, v, of_queries(mask, part)) for part in
             (slice(0, readers.start), slice(readers.stop, length)) if part.start < part.stop]
    both = beside(of_queries(mask, readers), own_keys, bias, mask_k.shape[2], q)
    reading = attention(q[:, :, readers], keys, values, both)
    parts.insert(1 if readers.start else 0, reading)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def attend_at_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, masks: Sequence[MaskRows], index: int,
                   reach: Reach, attention: Callable) -> Tensor:
    """What `attend_masks` does, in one call of `attention` with all rows and queries.

    For the attention of another node, another adapter's among them, that tells rows and queries by their places.
    """
    readers, (B, H, T, D) = reach.queries(q.shape[2]), q.shape
    parts = [(rows, *dense(*kv[index], bias, reach, q[rows])) for rows, kv, bias, _ in masks if kv is not None]
    M = max(part[1].shape[2] for part in parts)
    mask_k, mask_v = (x.new_zeros(B, H, M, D) for x in (k, v))
    bias = q.new_full((B, 1, T, M), -torch.inf)
    for rows, part_k, part_v, part in parts:
        count = part_k.shape[2]
        mask_k[rows, :, :count], mask_v[rows, :, :count] = part_k, part_v
        bias[rows, :, readers, :count] = 0 if part is None else part
    if len(masks) == 1 and parts[0][3] is None and readers == slice(0, T):
        bias = None
    both = beside(mask, k.shape[2], bias, M, q)
    return attention(q, torch.cat((k, mask_k), dim=2), torch.cat((v, mask_v), dim=2), both)


def dense(mask_k, mask_v, bias, reach: Reach, q: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """A mask's keys and values (B, H, M, D) for the queries q, and the bias (B or 1, 1, T or 1, M) of those that read.
    """
    if reach.radius:
        mask_k, mask_v = (local_window.from_strips(x, reach.grid, reach.radius) for x in (mask_k, mask_v))
        bias = local_window.dense_bias(reach.grid, reach.radius, q)[None, None]  # (1, 1, N, M)
    elif bias is not None:
        bias = repeat(bias.to(q.dtype), q.shape[0])[:, None, None]  # (B, 1, 1, M)
    return repeat(mask_k, q.shape[0]), repeat(mask_v, q.shape[0]), bias


def beside(own: Tensor | None, own_keys: int, bias: Tensor | None, mask_keys: int, q: Tensor) -> Tensor | None:
    """The attention mask of the own keys and the bias of the mask's, either of which may be None, as one."""
    if own is None and bias is None:
        return None
    own = q.new_zeros(1, 1, 1, own_keys) if own is None else additive(own, q)
    bias = q.new_zeros(1, 1, 1, mask_keys) if bias is None else bias
    shape = [max(sizes) for sizes in zip(own.shape[:3], bias.shape[:3])]
    return torch.cat((own.expand(*shape, -1), bias.expand(*shape, -1)), dim=3)


def of_queries(mask: Tensor | None, queries: slice) -> Tensor | None:
    """The rows of an attention mask (..., T or 1, K) that belong to some queries."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., queries, :]


def additive(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A host's attention mask, boolean or additive with 2 to 4 dimensions, as a bias (B or 1, H or 1, T or 1, K)."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    mask = mask[None] if mask.ndim == 2 else mask
    return mask[:, None] if mask.ndim == 3 else mask


def repeat(x: Tensor, batch: int) -> Tensor:
    """Repeats the b rows of x cyclically to `batch` rows, without a copy where b is 1."""
    if x.shape[0] == 1:
        return x.expand(batch, *x.shape[1:])
    return x.repeat(batch // x.shape[0], *[1] * (x.ndim - 1))
