"""The mask as a third stream in the host's own attention, recomputed in every call
(docs/design/mditface.md, section 3.3)."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from comfy.ldm.flux.layers import ModulationOut
from mditface.mdit.mditface.adapter.families.zimage import ZImageStream
from mditface.mdit.mditface.adapter.streams import Inputs, MaskStream
from mditface.mdit.mditface.tokens import MaskTokens


class Joint:
    """Replaces every block of a host's network, through `patches_replace`, or on Z-Image the attention of its layers.

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
        if isinstance(stream, ZImageStream):
            self.options = {"patches": {"noise_refiner": [self.begin]}, "optimized_attention_override": self.run_layer}

    def run_block(self, i: int, args: dict, extra: dict) -> dict:
        if i == 0:
            self.start(args["img"])
        self.length = args["img"].shape[1] + (args["txt"].shape[1] if "txt" in args else 0)
        options = {**args["transformer_options"], "optimized_attention_override": partial(self.attend, i, args["vec"])}
        call = self.stream.choose_block_call(i, extra["original_block"])
        return call({**args, "transformer_options": options})

    def begin(self, args: dict) -> dict:
        """On Z-Image: the image in its refiner, where the mask gets its place along the first coordinate."""
        if args["block_index"] == 0:
            self.start(args["img"])
            self.image_vec = args["vec"]
            features = self.stream.network.axes_dims[0] // 2
            self.pe[..., :features, :, :] = args["pe"][0, 0, 0, :features]
        return {}

    def run_layer(self, function: Callable, q: Tensor, *args, **kwargs) -> Tensor:
        """On Z-Image: the attention of a layer, or of a refiner."""
        i = kwargs["transformer_options"].get("block_index")
        if i is None:
            return function(q, *args, **kwargs)
        self.length = q.shape[2]
        return self.attend(i, self.image_vec, function, q, *args, **kwargs)

    def start(self, img: Tensor):
        msk, self.pe = self.stream.start(self.tokens, self.tokens.tokens.to(img), {})
        self.msk = msk.expand(img.shape[0], -1, -1)  # (B, M, d)
        if self.decoupled:
            self.vec = self.stream.make_vector(img.new_zeros(1), None, img.dtype)

    def make_inputs(self, i: int, vec) -> Inputs:
        """vec: what the host hands the block, a vector or, where blocks have no modulation of their own, its result."""
        if self.decoupled or torch.is_tensor(vec):
            return self.stream.make_inputs(i, self.msk, self.vec if self.decoupled else vec, self.pe)
        parts = [vec] if isinstance(vec, ModulationOut) else vec[0]  # of the image, before those of the text
        modulation = [x for part in parts for x in (part.shift, part.scale, part.gate)]
        return self.stream.make_modulated_inputs(i, self.msk, modulation, self.pe)

    def attend(self, i: int, vec, function: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int,
               mask: Tensor | None = None, skip_reshape: bool = False, **kwargs) -> Tensor:
        if q.shape[-2 if skip_reshape else 1] != self.length:  # SD3.5's second attention, of the image alone
            return function(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        own = self.make_inputs(i, vec)
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
