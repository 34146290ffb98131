"""The mask as a third stream in the host's own attention, recomputed in every call
(docs/design/mditface.md, section 3.3)."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mditface.mdit.mditface.adapter.streams import MaskStream
from mditface.mdit.mditface.tokens import MaskTokens


class Joint:
    """Replaces every block of a host's network, through `patches_replace`.

    All queries read all keys, and the image's vector modulates the mask stream: the naive form. `decoupled` hides text
    and image keys from the mask queries and modulates the mask stream by the constant vector. That is the function
    that the static cache computes, without its code. The last block has no mask queries, because their output is not
    read.
    """

    def __init__(self, stream: MaskStream, tokens: MaskTokens, decoupled: bool = False):
        self.stream = stream
        self.tokens = tokens
        self.decoupled = decoupled
        blocks = {name: partial(self.run_block, i) for i, name in enumerate(stream.names)}
        self.options = {"patches_replace": {"dit": blocks}}

    def run_block(self, i: int, args: dict, extra: dict) -> dict:
        if i == 0:
            self.start(args["img"], args["vec"])
        vec = self.vec if self.decoupled else args["vec"]
        self.length = args["img"].shape[1] + (args["txt"].shape[1] if "txt" in args else 0)
        options = {**args["transformer_options"], "optimized_attention_override": partial(self.attend, i, vec)}
        call = self.stream.choose_block_call(i, extra["original_block"])
        return call({**args, "transformer_options": options})

    def start(self, img: Tensor, vec: Tensor):
        msk, self.pe = self.stream.start(self.tokens, self.tokens.tokens.to(img), {})
        self.msk = msk.expand(img.shape[0], -1, -1)  # (B, M, d)
        self.vec = self.stream.make_vector(vec.new_zeros(1), None, vec.dtype)

    def attend(self, i: int, vec: Tensor, function: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int,
               mask: Tensor | None = None, skip_reshape: bool = False, **kwargs) -> Tensor:
        if q.shape[-2 if skip_reshape else 1] != self.length:  # SD3.5's second attention, of the image alone
            return function(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        own = self.stream.make_inputs(i, self.msk, vec, self.pe)
        last = i + 1 == self.stream.blocks
        if not last:
            q = torch.cat((q, own.q), dim=2)
        k = torch.cat((k, own.k), dim=2)
        v = torch.cat((v, own.v), dim=2)
        hidden = self.hide_keys(q, k) if self.decoupled else None
        out = function(q, k, v, heads, mask=hidden, skip_reshape=True, **kwargs)  # (B, T or T + M, d)
        if not last:
            self.msk = own.finish(out[:, self.length:])
        return out[:, :self.length]

    def hide_keys(self, q: Tensor, k: Tensor) -> Tensor:
        """What keeps mask queries from all but mask keys, (1, 1, queries, keys)."""
        bias = q.new_zeros(1, 1, q.shape[2], k.shape[2])
        bias[:, :, self.length:, :self.length] = -torch.inf
        return bias
