"""Blocks of the host's models that read masks: what stands in `patches_replace` during one model call
(docs/design/adapters.md, section 5, and docs/design/mditface.md, section 6.4)."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from ...shared.origins import name_replacements
from ..attention import AttentionCall, MaskRows, ReadPattern, attend_at_once, attend_masks, host_uses_pytorch
from ..cache import RunReport
from .compiled import check_guards
from .streams import MaskStream


@contextlib.contextmanager
def follow_blocks(stream: MaskStream, patches: dict[tuple[str, int], BlockPatch]):
    """Inside, the patch around a module that another node put in place of several blocks knows which of them runs."""
    with contextlib.ExitStack() as stack:
        if stream.places != stream.names:
            for i, (place, block) in enumerate(zip(stream.places, stream.modules)):
                stack.enter_context(block.register_forward_pre_hook(partial(patches[place].enter_block, i)))
        yield


def count_reads(report: RunReport, key: str, stream: MaskStream, patches: dict[tuple[str, int], BlockPatch]):
    """Adds to the report the blocks of one call that read the mask, and what kept the others from it."""
    read = sum(len(patch.read) for patch in patches.values())
    with report.lock:
        reads = report.reads.setdefault(key, [0, 0])
        reads[0] += read
        reads[1] += stream.blocks
    if read < stream.blocks:
        report.replacements |= dict.fromkeys(name_replacements([stream.network, *stream.modules]))


class BlockPatch:
    """Replaces one block: calls the block, or the patch that was there, with an attention that reads the masks.

    options: the transformer options of the model call, for a forward of another node that does not pass them on.
    place: the block's number.
    index: whose keys the attention reads: those of the block that runs.
    read: the blocks whose attention was reached.
    """

    def __init__(self, mask_rows: tuple[MaskRows, ...], index: int, inner: Callable | None, stream: MaskStream,
                 pattern: ReadPattern, options: dict):
        self.mask_rows = mask_rows
        self.place = index
        self.index = index
        self.inner = inner
        self.stream = stream
        self.pattern = pattern
        self.options = options
        self.use_lse = host_uses_pytorch()
        self.read = set()
        self.original = partial(stream.run_block, index)

    def enter_block(self, index: int, module: nn.Module, inputs: tuple):
        """Before a block runs inside of another node's module."""
        self.index = index

    def __call__(self, args: dict, extra: dict) -> dict:
        if not torch.compiler.is_compiling():
            check_guards(self.stream.get_list_entry(self.place))
        options = args.get("transformer_options")
        original = self.original
        if options is None:
            options = {**self.options, "img_slice": [self.pattern.text, args["img"].shape[1]]}
        else:
            original = self.stream.choose_block_call(self.index, extra["original_block"])
        text = args["txt"].shape[1] if "txt" in args else options["img_slice"][0]
        length = args["img"].shape[1] + (text if "txt" in args else 0)
        attend = partial(self.attend, options.get("optimized_attention_override"), text, length)
        args = {**args, "transformer_options": {**options, "optimized_attention_override": attend}}
        if self.inner is not None:
            return self.inner(args, {**extra, "original_block": original})
        return original(args)

    def attend(self, override: Callable | None, text: int, length: int, function: Callable, q: Tensor, k: Tensor,
               v: Tensor, heads: int, mask: Tensor | None = None, skip_reshape: bool = False, **kwargs) -> Tensor:
        """The attention override of the block, for queries of text and image; SD3.5's second attention has others.

        The host calls the attention mask `mask`.
        """
        call = function if override is None else partial(override, function)
        if not skip_reshape:  # SD3: q and k (B, T, H * D), v (B, T, H, D)
            q, k, v = (x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))

        def kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            return call(q, k, v, heads, mask=attn_mask, skip_reshape=True, **kwargs)

        if q.shape[2] != length:
            return kernel(q, k, v, mask)
        self.read.add(self.index)
        base = self.pattern  # a `_replace` would not survive where PyTorch's compiler breaks the graph
        pattern = ReadPattern(text, base.text_reads, base.radius, base.grid)
        return self.read_masks(AttentionCall(q, k, v, mask, kernel), self.mask_rows, pattern, override is not None)

    def read_masks(self, call: AttentionCall, mask_rows: tuple[MaskRows, ...], pattern: ReadPattern, at_once: bool
                   ) -> Tensor:
        """The attention with the keys of the block, (B, T, H * D); `at_once` in one call, for another's override."""
        if at_once:
            return attend_at_once(call, mask_rows, self.index, pattern)
        return attend_masks(call, mask_rows, self.index, pattern, self.use_lse)


class JointPatch(BlockPatch):
    """Replaces one block where masks are conditions of a joint stream (see condition.py)."""

    def read_masks(self, call: AttentionCall, mask_rows: tuple[MaskRows, ...], pattern: ReadPattern, at_once: bool
                   ) -> Tensor:
        """The attention of text and image, and a second one of the condition.

        Two calls, because the overrides of other nodes expect queries of text and image alone.
        """
        inputs = [None if part.kv is None else part.kv.enter(self.index) for part in mask_rows]
        read = []
        for part, own in zip(mask_rows, inputs):
            kv = None if own is None else {self.index: (own.k, own.v)}
            read.append(MaskRows(part.rows, kv, part.bias))
        out = super().read_masks(call, tuple(read), pattern, at_once)
        for part, own in zip(mask_rows, inputs):
            if own is not None:
                part.kv.leave(self.index, own, call.select_rows(part.rows))
        return out
