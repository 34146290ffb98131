"""The mask stream on the host's own blocks: the image stream's weights plus the adapter's terms (spec section 5.1).

Every layer is called as a module, so quantised, offloaded and LoRA-patched weights work like in the image stream.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops
from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.mmdit import split_qkv

from ..math import TIME_FEATURES, rescale_positions
from ..prompt import Prompt
from ..tokens import MaskTokens
from .weights import Adapter


class Inputs(NamedTuple):
    """A block's queries, keys and values of the mask tokens (b, H, M, D), and what makes the attention's output
    (b, M, d) the tokens after the block (b, M, d)."""
    q: Tensor
    k: Tensor
    v: Tensor
    finish: Callable[[Tensor], Tensor]


class MaskStream:
    """The blocks of one network, with an adapter's terms at a weight, for the mask tokens."""

    def __init__(self, network: nn.Module, adapter: Adapter, weight: float):
        self.network, self.adapter, self.weight = network, adapter, weight

    @property
    def names(self) -> list[tuple[str, int]]:
        """The blocks, in their order, under the names of the host's `patches_replace`."""
        doubles, singles = self.adapter.config.depth
        return [("double_block", i) for i in range(doubles)] + [("single_block", i) for i in range(singles)]

    def static_path(self, tokens: MaskTokens, device: torch.device, dtype: torch.dtype, prompt: Prompt | None,
                    transformer_options: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each block's mask keys and values (b, H, M, D), after norm and rotation (spec section 3.5)."""
        msk, pe = self.start(tokens, tokens.tokens.to(device, dtype), transformer_options)
        vec = self.vector(torch.zeros(1, device=device), prompt, dtype)
        for i in range(self.blocks):
            inputs = self.inputs(i, msk, vec, pe)
            yield inputs.k, inputs.v
            if i + 1 < self.blocks:
                msk = inputs.finish(optimized_attention(*inputs[:3], self.heads, skip_reshape=True))

    def layer(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        """The layer with its term, which may cover the first rows of the output only."""
        y = module(x)
        after = self.adapter.config.proj_after and name.endswith(".proj")
        term = self.adapter.term(name, y if after else x)
        if term is not None:
            y = y + F.pad(term, (0, y.shape[-1] - term.shape[-1])) * self.weight
        return y

    def modulation(self, module: nn.Module, name: str, vec: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Shifts, scales and gates (b, 1, d) for the vector (b, d)."""
        return self.layer(module, name, F.silu(vec)).unsqueeze(1).chunk(parts, dim=-1)

    def mlp(self, layers: tuple[nn.Module, Callable, nn.Module], name: str, x: Tensor) -> Tensor:
        fc1, activation, fc2 = layers
        return self.layer(fc2, f"{name}.fc2", activation(self.layer(fc1, f"{name}.fc1", x)))


class SD3Stream(MaskStream):
    """On SD3 and SD3.5 (host class MMDiT)."""

    def __init__(self, network, adapter, weight):
        super().__init__(network, adapter, weight)
        self.blocks, self.heads = len(network.joint_blocks), network.num_heads

    def block_call(self, i: int, original: Callable) -> Callable:
        """The block, called without the activation checkpointing that the host's `original` adds."""
        def call(args: dict) -> dict:
            txt, img = self.network.joint_blocks[i](args["txt"], args["img"], c=args["vec"], use_checkpoint=False,
                                                    transformer_options=args["transformer_options"])
            return {"txt": txt, "img": img}
        return call

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, None]:
        patch = self.network.patch_size
        latent = tokens.latent.to(features)  # (b, C, h * patch, w * patch)
        embedded = self.network.x_embedder(latent)  # (b, M, d)
        table = self.network.cropped_pos_embed([side * patch for side in tokens.extent], device=latent.device)
        table = comfy.ops.cast_to_input(table.view(*tokens.extent, -1), embedded)
        place = between(between(table, tokens.rows, 0), tokens.cols, 1)  # (h, w, d)
        return embedded + place.flatten(0, 1), None

    def rotation(self, places: Tensor, transformer_options: dict) -> None:
        return None

    def vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        vec = self.network.t_embedder(t, dtype=dtype)
        if self.network.y_embedder is None:
            return vec
        return vec + self.network.y_embedder(vec.new_zeros(1, self.network.y_embedder.mlp[0].in_features))

    def inputs(self, i: int, msk: Tensor, vec: Tensor, pe: None) -> Inputs:
        block, name = self.network.joint_blocks[i].x_block, f"double.{i}"
        a1, b1, g1, a2, b2, g2, *second = self.modulation(
            block.adaLN_modulation[1], f"{name}.mod", vec, 9 if block.x_block_self_attn else 6)
        norm = block.norm1(msk)
        q, k, v = self.heads_of(block.attn, self.layer(block.attn.qkv, f"{name}.qkv", torch.addcmul(a1, norm, 1 + b1)))

        def finish(attention: Tensor) -> Tensor:
            out = msk + g1 * self.layer(block.attn.proj, f"{name}.proj", attention)
            if second:
                out = out + self.second_attention(block.attn2, norm, *second)
            mlp = (block.mlp.fc1, block.mlp.act, block.mlp.fc2)
            return out + g2 * self.mlp(mlp, name, torch.addcmul(a2, block.norm2(out), 1 + b2))
        return Inputs(q, k, v, finish)

    def second_attention(self, attn: nn.Module, norm: Tensor, a: Tensor, b: Tensor, g: Tensor) -> Tensor:
        """SD3.5-medium's attention of the image stream to itself; here, of the mask tokens."""
        q, k, v = self.heads_of(attn, attn.qkv(torch.addcmul(a, norm, 1 + b)))
        return g * attn.proj(optimized_attention(q, k, v, self.heads, skip_reshape=True))

    def heads_of(self, attn: nn.Module, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_qkv(qkv, attn.head_dim)  # (b, M, H, D)
        return tuple(x.transpose(1, 2) for x in (attn.ln_q(q), attn.ln_k(k), v))


class FluxStream(MaskStream):
    """On FLUX.1."""

    def __init__(self, network, adapter, weight):
        super().__init__(network, adapter, weight)
        self.doubles = len(network.double_blocks)
        self.blocks, self.heads = self.doubles + len(network.single_blocks), network.num_heads

    def block_call(self, i: int, original: Callable) -> Callable:
        return original

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, Tensor]:
        return self.network.img_in(features), self.rotation(tokens.positions().to(features.device), transformer_options)

    def rotation(self, places: Tensor, transformer_options: dict) -> Tensor:
        index = (transformer_options.get("rope_options") or {}).get("shift_t", 0.0)
        ids = F.pad(rescale_positions(places, transformer_options), (1, 0), value=index)  # (M, 3)
        return self.network.pe_embedder(ids[None])

    def vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        network = self.network
        embed = partial(timestep_embedding, dim=TIME_FEATURES)
        vec = network.time_in(embed(t).to(dtype))
        pooled, guidance = prompt or (None, torch.ones_like(t))
        if network.params.guidance_embed and guidance is not None:
            vec = vec + network.guidance_in(embed(guidance.to(t)).to(dtype))
        if pooled is None:
            pooled = vec.new_zeros(1, network.params.vec_in_dim)
        return vec + network.vector_in(pooled.to(vec)[:, :network.params.vec_in_dim])

    def inputs(self, i: int, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        if i < self.doubles:
            return self.double(self.network.double_blocks[i], f"double.{i}", msk, vec, pe)
        i -= self.doubles
        return self.single(self.network.single_blocks[i], f"single.{i}", msk, vec, pe)

    def double(self, block: nn.Module, name: str, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        a1, b1, g1, a2, b2, g2 = self.modulation(block.img_mod.lin, f"{name}.mod", vec, 6)
        qkv = self.layer(block.img_attn.qkv, f"{name}.qkv", torch.addcmul(a1, block.img_norm1(msk), 1 + b1))

        def finish(attention: Tensor) -> Tensor:
            out = msk + g1 * self.layer(block.img_attn.proj, f"{name}.proj", attention)
            return finite(out + g2 * self.mlp(block.img_mlp, name, torch.addcmul(a2, block.img_norm2(out), 1 + b2)))
        return Inputs(*self.heads_of(block.img_attn.norm, qkv, pe), finish)

    def single(self, block: nn.Module, name: str, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        a, b, g = self.modulation(block.modulation.lin, f"{name}.mod", vec, 3)
        both = self.layer(block.linear1, f"{name}.linear1", torch.addcmul(a, block.pre_norm(msk), 1 + b))
        qkv, hidden = both.split((3 * block.hidden_size, block.mlp_hidden_dim_first), dim=-1)

        def finish(attention: Tensor) -> Tensor:
            both = torch.cat((attention, block.mlp_act(hidden)), dim=-1)
            return finite(msk + g * self.layer(block.linear2, f"{name}.linear2", both))
        return Inputs(*self.heads_of(block.norm, qkv, pe), finish)

    def heads_of(self, norm: nn.Module, qkv: Tensor, pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (b, H, M, D)
        q, k = norm(q, k, v)
        return apply_rope1(q, pe), apply_rope1(k, pe), v


def between(table: Tensor, places: Tensor, dim: int) -> Tensor:
    """Rows of a table along `dim` at fractional places, by linear interpolation, held at the ends."""
    places = places.to(table.device).clamp(0, table.shape[dim] - 1)
    low, high = (table.index_select(dim, edge.long()) for edge in (places.floor(), places.ceil()))
    share = (places - places.floor()).to(table.dtype)
    return torch.lerp(low, high, share.view([-1 if d == dim else 1 for d in range(table.ndim)]))


def finite(x: Tensor) -> Tensor:
    """What the host does to streams in half precision: overflows become the largest number."""
    if x.dtype == torch.float16:
        return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
    return x
