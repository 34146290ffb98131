"""How queries of the image and text streams read mask keys (docs/design/mditface.md, sections 3.3, 5.3, 6.4 and 8)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.model_management

from . import local_window


class ExemplarKeys(NamedTuple):
    """What image tokens read of an exemplar (see exemplar_branch.py).

    candidates: (b, N, C), the numbers of the keys that each token compares itself with.
    match: (b, N, r), features that tell which of these keys suit the token's position.
    kv: the keys and values of each block that reads, in order.
    strength: multiplies what is read; a number or (B, 1, 1).
    """
    candidates: Tensor
    match: Tensor
    kv: Sequence[tuple[Tensor, Tensor]]
    strength: float | Tensor = 1.0

    def select_rows(self, rows: tuple[int, ...]) -> ExemplarKeys:
        """What some rows of the batch read."""
        return ExemplarKeys(take_rows(self.candidates, rows), take_rows(self.match, rows), SelectedRows(self.kv, rows),
                            self.strength)


class SelectedRows:
    """The keys and values that some rows of a batch read, of an entry for all rows."""

    def __init__(self, entry: Sequence[tuple[Tensor, Tensor]], rows: tuple[int, ...]):
        self.entry = entry
        self.rows = rows

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        k, v = self.entry[i]
        return take_rows(k, self.rows), take_rows(v, self.rows)

    @property
    def blocks(self) -> list:
        return self.entry.blocks


class TurnedKeys:
    """The keys and values of an entry, with the keys' first features rotated further, in the same way for all tokens.

    turn: (n, 2, 2), the rotation of each pair of the first 2 n features.
    """

    def __init__(self, entry: Sequence[tuple[Tensor, Tensor]], turn: Tensor):
        self.entry = entry
        self.turn = turn

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        k, v = self.entry[i]
        features = 2 * len(self.turn)
        pairs = k[..., :features].float().unflatten(-1, (-1, 1, 2))
        turned = (self.turn * pairs).sum(-1).flatten(-2).to(k.dtype)
        return torch.cat((turned, k[..., features:]), dim=-1), v

    @property
    def blocks(self) -> list:
        return self.entry.blocks


def take_rows(x: Tensor, rows: tuple[int, ...]) -> Tensor:
    """These rows of x, without a copy where they are neighbours; x where it has one row for all."""
    first = rows[0]
    if x.shape[0] == 1:
        return x
    if rows == tuple(range(first, first + len(rows))):
        return x[first:first + len(rows)]
    return x[list(rows)]


class MaskRows(NamedTuple):
    """Which rows of a batch read which mask, and the exemplar on it.

    rows: the rows.
    kv: each block's mask keys and values, (b, H, M, D), or strips of `local_window`; None where rows have no mask.
    bias: what is added to the keys' logits, (1 or b, M), or that of `local_window.make_strip_bias`; None for zero.
    exemplar: None where the mask has no exemplar.
    """
    rows: slice
    kv: Sequence[tuple[Tensor, Tensor]] | None
    bias: Tensor | None = None
    exemplar: ExemplarKeys | None = None


class ReadPattern(NamedTuple):
    """Which queries read which mask keys.

    text: number of text queries, which come first.
    text_reads: whether text queries read the mask.
    radius: above 0 only image queries read the mask, each the keys of its window (see local_window.py).
    grid: sides (h, w) of the image tokens' grid; needed with a radius.
    """
    text: int
    text_reads: bool = True
    radius: int = 0
    grid: tuple[int, int] = (0, 0)

    def find_readers(self, length: int) -> slice:
        """The queries that read the mask, among `length` queries."""
        if self.radius:
            return slice(self.text, self.text + self.grid[0] * self.grid[1])
        return slice(0 if self.text_reads else self.text, length)


class AttentionCall(NamedTuple):
    """One attention of a block.

    q: (B, H, T, D).
    k, v: the block's own keys and values, (B, H, K, D).
    attn_mask: restricts the own keys, boolean or additive, as for the host's attention; None for no restriction.
    kernel: the host's attention, kernel(q, k, v, attn_mask) -> (B, T, H * D).
    """
    q: Tensor
    k: Tensor
    v: Tensor
    attn_mask: Tensor | None
    kernel: Callable

    def select_rows(self, rows: slice) -> AttentionCall:
        """The same attention for some rows of the batch."""
        attn_mask = self.attn_mask
        if attn_mask is not None and attn_mask.ndim > 2 and attn_mask.shape[0] > 1:
            attn_mask = attn_mask[rows]
        return AttentionCall(self.q[rows], self.k[rows], self.v[rows], attn_mask, self.kernel)


def attend_masks(call: AttentionCall, mask_rows: Sequence[MaskRows], index: int, pattern: ReadPattern, use_lse: bool
                 ) -> Tensor:
    """Attention of the queries to their own keys and to the masks' keys of block `index`, (B, T, H * D).

    mask_rows: cover all rows of the batch, in order.
    use_lse: allows kernels that return the log-sum-exp of the logits, instead of the host's kernel.
    """
    check_batch(call.q, mask_rows)
    outputs = []
    for rows, kv, bias, _ in mask_rows:
        part = call.select_rows(rows)
        if kv is None:
            outputs.append(part.kernel(part.q, part.k, part.v, part.attn_mask))
            continue
        mask_k, mask_v = kv[index]
        if use_lse and has_lse_kernel(part.q, bias is not None):
            outputs.append(merge_with_lse(part, mask_k, mask_v, bias, pattern))
        else:
            outputs.append(concatenate_keys(part, mask_k, mask_v, bias, pattern))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def check_batch(q: Tensor, mask_rows: Sequence[MaskRows]):
    """Raises ValueError where q (B, H, T, D) has other rows than the call for which the masks were laid out."""
    stop = mask_rows[-1].rows.stop
    if stop not in (None, q.shape[0]):
        raise ValueError(f"model: another node changes the batch from {stop} to {q.shape[0]} rows inside the network, "
                         "which a mask cannot follow: remove that node")


def host_uses_pytorch() -> bool:
    """Whether the host computes attention by PyTorch's kernels, whose result `attend_with_lse` equals."""
    management = comfy.model_management
    other = (management.sage_attention_enabled() or management.flash_attention_enabled()
             or management.xformers_enabled())
    return management.pytorch_attention_enabled() and not other


def has_lse_kernel(q: Tensor, biased: bool) -> bool:
    """Whether a kernel with log-sum-exp serves these queries, and at least as well as one call over all keys.

    On CUDA the host may have a faster kernel without it; a bias, however, would slow that kernel down for all keys.
    Old cards lack these kernels for some types, and every card for some head widths.
    """
    if torch.is_grad_enabled():  # the kernels have no gradient through the log-sum-exp
        return False
    if q.device.type == "cuda":
        return biased and torch.backends.cuda.can_use_efficient_attention(describe_attention(q, q, q))
    return q.device.type == "cpu"


def has_flash_kernel(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the card's flash kernel serves this attention without a bias. Called directly, it pads no head width."""
    return q.shape[-1] % 8 == 0 and torch.backends.cuda.can_use_flash_attention(describe_attention(q, k, v))


def describe_attention(q: Tensor, k: Tensor, v: Tensor) -> torch.backends.cuda.SDPAParams:
    """What PyTorch wants to know to tell whether a kernel can be used."""
    return torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, False, False)


def attend_with_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention (B, H, T, D) and the log-sum-exp of its logits (B, H, T), where `has_lse_kernel` says so.

    q: (B, H, T, D). k, v: (B, H, K, D). bias: broadcasts to the logits (B, H, T, K); None for zero.
    """
    aten = torch.ops.aten
    if bias is not None:
        keys = bias.shape[-1]
        bias = F.pad(bias.to(q.dtype), (0, -keys % 8))[..., :keys]  # the CUDA kernel demands rows of 16 bytes
        bias = bias.expand(q.shape[:3] + (keys,))
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
    if bias is None and has_flash_kernel(q, k, v):
        return aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, bias, True)[:2]
    return out, lse[..., :q.shape[2]]  # the kernel pads the queries


def merge_with_lse(call: AttentionCall, mask_k: Tensor, mask_v: Tensor, bias: Tensor | None, pattern: ReadPattern
                   ) -> Tensor:
    """Two attentions whose outputs are weighted by their log-sum-exp, (B, T, H * D): exact, and no keys are copied.

    mask_k, mask_v, bias: as in `MaskRows`, of one block.
    """
    out, lse = attend_with_lse(call.q, call.k, call.v, as_bias(call.attn_mask, call.q))  # (B, H, T, D), (B, H, T)
    readers = pattern.find_readers(call.q.shape[2])
    q = call.q[:, :, readers]
    if pattern.radius:
        mask_out, mask_lse = local_window.attend_windows(q, mask_k, mask_v, bias, pattern.grid, pattern.radius,
                                                         attend_with_lse)
    else:
        batch = q.shape[0]
        bias = None if bias is None else repeat_rows(bias, batch)[:, None, None]  # (B, 1, 1, M)
        mask_out, mask_lse = attend_with_lse(q, repeat_rows(mask_k, batch), repeat_rows(mask_v, batch), bias)
    weight = torch.sigmoid(mask_lse - lse[:, :, readers]).unsqueeze(-1).to(out.dtype)
    out[:, :, readers].lerp_(mask_out, weight)
    return out.transpose(1, 2).flatten(2)


def concatenate_keys(call: AttentionCall, mask_k: Tensor, mask_v: Tensor, bias: Tensor | None, pattern: ReadPattern
                     ) -> Tensor:
    """One attention over all keys, (B, T, H * D); serves every kernel and has gradients.

    mask_k, mask_v, bias: as in `MaskRows`, of one block.
    """
    q, k, v, attn_mask, kernel = call
    length = q.shape[2]
    readers = pattern.find_readers(length)
    mask_k, mask_v, bias = expand_keys(mask_k, mask_v, bias, pattern, q)
    all_k = torch.cat((k, mask_k), dim=2)
    all_v = torch.cat((v, mask_v), dim=2)
    all_bias = concatenate_biases(select_queries(attn_mask, readers), k.shape[2], bias, mask_k.shape[2], q)
    outputs = [kernel(q[:, :, readers], all_k, all_v, all_bias)]
    if readers.start > 0:  # queries that do not read the mask
        before = slice(0, readers.start)
        outputs.insert(0, kernel(q[:, :, before], k, v, select_queries(attn_mask, before)))
    if readers.stop < length:
        after = slice(readers.stop, length)
        outputs.append(kernel(q[:, :, after], k, v, select_queries(attn_mask, after)))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def attend_at_once(call: AttentionCall, mask_rows: Sequence[MaskRows], index: int, pattern: ReadPattern) -> Tensor:
    """What `attend_masks` computes, in one call of the kernel with all rows and queries, (B, T, H * D).

    An attention override of another node or another adapter identifies rows and queries by their positions in the
    tensor.
    """
    check_batch(call.q, mask_rows)
    q, k, v, attn_mask, kernel = call
    B, H, T, D = q.shape
    readers = pattern.find_readers(T)
    expanded = []
    for rows, kv, bias, _ in mask_rows:
        if kv is not None:
            part_k, part_v = kv[index]
            expanded.append((rows, expand_keys(part_k, part_v, bias, pattern, q[rows])))
    M = max(part_k.shape[2] for _, (part_k, _, _) in expanded)
    mask_k = k.new_zeros(B, H, M, D)
    mask_v = v.new_zeros(B, H, M, D)
    bias = q.new_full((B, 1, T, M), -torch.inf)
    for rows, (part_k, part_v, part_bias) in expanded:
        count = part_k.shape[2]
        mask_k[rows, :, :count] = part_k
        mask_v[rows, :, :count] = part_v
        bias[rows, :, readers, :count] = 0 if part_bias is None else part_bias
    if len(mask_rows) == 1 and part_bias is None and readers == slice(0, T):
        bias = None
    all_bias = concatenate_biases(attn_mask, k.shape[2], bias, M, q)
    return kernel(q, torch.cat((k, mask_k), dim=2), torch.cat((v, mask_v), dim=2), all_bias)


def expand_keys(mask_k: Tensor, mask_v: Tensor, bias: Tensor | None, pattern: ReadPattern, q: Tensor
                ) -> tuple[Tensor, Tensor, Tensor | None]:
    """A mask's keys and values (B, H, M, D) for the queries q, and the bias (B or 1, 1, T or 1, M) of its readers."""
    if pattern.radius:
        mask_k = local_window.join_strips(mask_k, pattern.grid, pattern.radius)
        mask_v = local_window.join_strips(mask_v, pattern.grid, pattern.radius)
        log_strength = bias.amax().to(q.dtype)  # the same at every open place of a strip
        bias = local_window.make_dense_bias(pattern.grid, pattern.radius, q)[None, None] + log_strength  # (1, 1, N, M)
    elif bias is not None:
        bias = repeat_rows(bias.to(q.dtype), q.shape[0])[:, None, None]  # (B, 1, 1, M)
    return repeat_rows(mask_k, q.shape[0]), repeat_rows(mask_v, q.shape[0]), bias


def concatenate_biases(attn_mask: Tensor | None, own_keys: int, bias: Tensor | None, mask_keys: int, q: Tensor
                       ) -> Tensor | None:
    """The attention mask of the own keys and the bias of the mask's keys as one bias; None where both are None."""
    if attn_mask is None and bias is None:
        return None
    own = q.new_zeros(1, 1, 1, own_keys) if attn_mask is None else as_bias(attn_mask, q)
    bias = q.new_zeros(1, 1, 1, mask_keys) if bias is None else bias
    shape = torch.broadcast_shapes(own.shape[:3], bias.shape[:3])
    return torch.cat((own.expand(shape + (-1,)), bias.expand(shape + (-1,))), dim=3)


def select_queries(attn_mask: Tensor | None, queries: slice) -> Tensor | None:
    """The part of an attention mask (..., T or 1, K) that belongs to some queries."""
    return attn_mask if attn_mask is None or attn_mask.shape[-2] == 1 else attn_mask[..., queries, :]


def as_bias(attn_mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A host's attention mask, boolean or additive with 2 to 4 dimensions, as a bias (B or 1, H or 1, T or 1, K)."""
    if attn_mask is None:
        return None
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill_(~attn_mask, -torch.inf)
    attn_mask = attn_mask[None] if attn_mask.ndim == 2 else attn_mask
    return attn_mask[:, None] if attn_mask.ndim == 3 else attn_mask


def repeat_rows(x: Tensor, batch: int) -> Tensor:
    """Repeats the b rows of x cyclically to `batch` rows, without a copy where b is 1 or `batch`."""
    if x.shape[0] == batch:
        return x
    if x.shape[0] == 1:
        return x.expand((batch,) + x.shape[1:])
    return x.repeat((batch // x.shape[0],) + (1,) * (x.ndim - 1))
