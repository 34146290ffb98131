"""Z-Image (docs/design/adapters.md, sections 2.3 and 3 to 5.1)."""
from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.attention import optimized_attention

from ...attention import MaskRows, TurnedKeys
from ...math import rescale_positions
from ...prompt import Prompt
from ...tokens import MaskTokens
from ..blocks import BlockPatch
from ..compiled import check_guards
from ..streams import Inputs, MaskStream
from .base import EMBEDDING, Blocks, Family, Layer
from .flux import clamp_half

INNER = Fraction(8, 3)  # width of the MLP's inside
INDEX = "block_index"  # where the host notes the layer that runs


class LayerOverride:
    """The attention of one model call: the network's loop calls no patches of layers, but notes which layer runs.

    patches: of the layers.
    inner: another node's override.
    count: number of the image's tokens, with those that fill them up; they are the last ones.
    axis: features of the rotation's first coordinate.
    """

    def __init__(self, patches: dict[tuple[str, int], BlockPatch], inner: Callable | None, count: int, axis: int):
        self.patches = patches
        self.inner = inner
        self.count = count
        self.axis = axis

    def place_mask(self, args: dict) -> dict:
        """A patch of the image's refiner: puts the mask where the image stands along the first coordinate."""
        if args[INDEX] == 0:
            turn = args["pe"][0, -self.count, 0, :self.axis // 2]  # (axis / 2, 2, 2)
            for patch in self.patches.values():
                patch.mask_rows = tuple(turn_keys(part, turn) for part in patch.mask_rows)
        return {}

    def __call__(self, function: Callable, q: Tensor, *args, **kwargs) -> Tensor:
        index = kwargs["transformer_options"].get(INDEX)
        if index is None:  # a refiner
            attend = function if self.inner is None else partial(self.inner, function)
            return attend(q, *args, **kwargs)
        length = q.shape[2]
        patch = self.patches["single_block", index]
        return patch.attend(self.inner, length - self.count, length, function, q, *args, **kwargs)


def turn_keys(part: MaskRows, turn: Tensor) -> MaskRows:
    kv = None if part.kv is None else TurnedKeys(part.kv, turn)
    return MaskRows(part.rows, kv, part.bias, part.exemplar)


class ZImageStream(MaskStream):
    """On the host's class NextDiT. The image's refiner embeds the mask, too; text and image read it in the layers."""
    lists = {"single": ("layers", "feed_forward")}
    has_block_patches = False

    def __init__(self, network, config, terms, weight):
        super().__init__(network, config, terms, weight)
        self.heads = network.n_heads

    def place_patches(self, patches: dict[tuple[str, int], BlockPatch], grid: tuple[int, int], options: dict) -> dict:
        for layer in self.network.layers:
            check_guards(layer)
        tokens = grid[0] * grid[1]
        count = tokens + -tokens % (self.network.pad_tokens_multiple or 1)
        override = LayerOverride(patches, options.get("optimized_attention_override"), count, self.network.axes_dims[0])
        others = options.get("patches", {})
        refiner = [*others.get("noise_refiner", []), override.place_mask]
        fresh = {name: value for name, value in options.items() if name != INDEX}
        return {**fresh, "optimized_attention_override": override, "patches": {**others, "noise_refiner": refiner}}

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, Tensor]:
        pe = self.compute_rotation(tokens.list_positions().to(features.device), transformer_options)
        patch = self.network.patch_size ** 2
        features = features.unflatten(-1, (-1, patch)).transpose(-1, -2).flatten(-2)  # a pixel's channels together
        msk = self.run_layer(self.network.x_embedder, EMBEDDING, features)
        vec = self.make_vector(features.new_zeros(1), None, features.dtype)
        for i, block in enumerate(self.network.noise_refiner):
            inputs = self.make_block_inputs(block, f"refiner.{i}", msk, vec, pe)
            msk = inputs.finish(optimized_attention(inputs.q, inputs.k, inputs.v, self.heads, skip_reshape=True))
        return msk, pe

    def compute_rotation(self, positions: Tensor, transformer_options: dict) -> Tensor:
        """The first coordinate is 0 here; see `LayerOverride.place_mask`."""
        return self.network.rope_embedder(F.pad(rescale_positions(positions, transformer_options), (1, 0))[None])

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        return self.network.t_embedder((1 - t) * self.network.time_scale, dtype=dtype)

    def make_inputs(self, i: int, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        return self.make_block_inputs(self.modules[i], f"single.{i}", msk, vec, pe)

    def make_block_inputs(self, block: nn.Module, name: str, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        scale1, gate1, scale2, gate2 = block.adaLN_modulation(vec).unsqueeze(1).chunk(4, dim=-1)
        attn = block.attention
        qkv = self.run_layer(attn.qkv, f"{name}.qkv", block.attention_norm1(msk) * (1 + scale1))
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, H, M, D)

        def finish(attention: Tensor) -> Tensor:
            projected = clamp_half(self.run_layer(attn.out, f"{name}.proj", attention))
            out = msk + gate1.tanh() * block.attention_norm2(projected)
            hidden = block.ffn_norm1(out) * (1 + scale2)
            return out + gate2.tanh() * block.ffn_norm2(clamp_half(self.run_gated(block.feed_forward, name, hidden)))
        return Inputs(apply_rope1(attn.q_norm(q), pe), apply_rope1(attn.k_norm(k), pe), v, finish)

    def run_gated(self, mlp: nn.Module, name: str, hidden: Tensor) -> Tensor:
        gate = F.silu(self.run_layer(mlp.w1, f"{name}.fc1", hidden))
        inner = clamp_half(gate * self.run_layer(mlp.w3, f"{name}.fc3", hidden))
        return self.run_layer(mlp.w2, f"{name}.fc2", inner)


def is_zimage(network: nn.Module) -> bool:
    """Lumina 2 has the same class, but an activation before each block's modulation, and other heads for its keys."""
    return type(network) is NextDiT and len(network.noise_refiner[0].adaLN_modulation) == 1


def measure_zimage(network: nn.Module) -> tuple[int, tuple[int, int]]:
    return network.dim, (0, len(network.layers))


def list_zimage_inputs(network: nn.Module) -> tuple[str, ...]:
    return ("num_tokens",)


FAMILY = Family(
    key="z-image",
    title="Z-Image",
    matches=is_zimage,
    measure=measure_zimage,
    blocks={
        "single": Blocks("layers.{}", {
            "qkv": Layer("attention.qkv", 1, (3,)),
            "proj": Layer("attention.out", 1, (1,), after_keys=True),
            "fc1": Layer("feed_forward.w1", 1, (INNER,), after_keys=True),
            "fc2": Layer("feed_forward.w2", INNER, (1,), after_keys=True),
            "fc3": Layer("feed_forward.w3", 1, (INNER,), after_keys=True),
        }),
    },
    stream=ZImageStream,
    text_layers={"context": "cap_embedder.1"},
    list_prompt_inputs=list_zimage_inputs,
    clip_type="LUMINA2",
)
