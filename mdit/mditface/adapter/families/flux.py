"""FLUX.1 (docs/design/adapters.md, section 5.1)."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.layers import timestep_embedding
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.flux.model import Flux

from ...math import TIME_FEATURES, rescale_positions
from ...prompt import Prompt
from ...tokens import MaskTokens
from ..streams import Inputs, MaskStream
from .base import EMBEDDING, MODULATION, Blocks, Family, Layer

COPIED_NORMS = ("img_norm1", "img_norm2", "txt_norm1", "txt_norm2", "pre_norm")  # blocks change their input in place


class FluxStream(MaskStream):
    """On the host's class Flux."""
    lists = {"double": ("double_blocks", "img_attn"), "single": ("single_blocks", "linear1")}

    def __init__(self, network, config, terms, weight):
        super().__init__(network, config, terms, weight)
        self.heads = network.num_heads

    def run_block(self, i: int, args: dict) -> dict:
        kind, index = self.kinds[i]
        rest = {name: args.get(name) for name in ("vec", "pe", "attn_mask", "transformer_options")}
        if kind == "single":
            return {"img": self.network.single_blocks[index](args["img"], **rest)}
        img, txt = self.network.double_blocks[index](img=args["img"], txt=args["txt"], **rest)
        return {"img": img, "txt": txt}

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, Tensor]:
        positions = tokens.list_positions().to(features.device)
        msk = self.run_layer(self.network.img_in, EMBEDDING, features)
        return msk, self.compute_rotation(positions, transformer_options)

    def compute_rotation(self, positions: Tensor, transformer_options: dict) -> Tensor:
        return self.network.pe_embedder(self.make_ids(positions, transformer_options)[None])

    def make_ids(self, positions: Tensor, transformer_options: dict) -> Tensor:
        """What the network rotates mask tokens at positions (M, 2) by, (M, axes)."""
        index = (transformer_options.get("rope_options") or {}).get("shift_t", 0.0)
        return F.pad(rescale_positions(positions, transformer_options), (1, 0), value=index)  # (M, 3)

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        network = self.network
        vec = self.embed_time(t, prompt, dtype)
        pooled = None if prompt is None else prompt.get("y")
        if pooled is None:
            pooled = vec.new_zeros(1, network.params.vec_in_dim)
        return vec + network.vector_in(pooled.to(vec)[:, :network.params.vec_in_dim])

    def embed_time(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        """Time and, where the network reads it, guidance: 1 without a prompt. (b, d)"""
        network = self.network
        embed = partial(timestep_embedding, dim=TIME_FEATURES)
        vec = network.time_in(embed(t).to(dtype))
        guidance = torch.ones_like(t) if prompt is None else prompt.get("guidance")
        if network.params.guidance_embed and guidance is not None:
            vec = vec + network.guidance_in(embed(guidance.to(t)).to(dtype))
        return vec

    def make_inputs(self, i: int, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        return self.make_modulated_inputs(i, msk, self.modulate(i, vec), pe)

    def modulate(self, i: int, vec: Tensor) -> Sequence[Tensor]:
        """Shift, scale and gate of block i, each (b, 1, d); in double blocks of the attention, then of the MLP."""
        kind, index = self.kinds[i]
        block = self.modules[i]
        if kind == "double":
            return self.make_modulation(block.img_mod.lin, f"double.{index}.mod", vec, 6)
        return self.make_modulation(block.modulation.lin, f"single.{index}.mod", vec, 3)

    def make_modulated_inputs(self, i: int, msk: Tensor, mod: Sequence[Tensor], pe: Tensor) -> Inputs:
        """The inputs of block i's attention, for mask tokens (b, M, d) and the result of `modulate`."""
        kind, index = self.kinds[i]
        make = self.make_double_inputs if kind == "double" else self.make_single_inputs
        return make(self.modules[i], f"{kind}.{index}", msk, mod, pe)

    def make_double_inputs(self, block: nn.Module, name: str, msk: Tensor, mod: Sequence[Tensor], pe: Tensor) -> Inputs:
        shift1, scale1, gate1, shift2, scale2, gate2 = mod
        hidden = torch.addcmul(shift1, block.img_norm1(msk), 1 + scale1)
        q, k, v = self.split_heads(block.img_attn.norm, self.run_layer(block.img_attn.qkv, f"{name}.qkv", hidden), pe)

        def finish(attention: Tensor) -> Tensor:
            out = msk + gate1 * self.run_layer(block.img_attn.proj, f"{name}.proj", attention)
            hidden = torch.addcmul(shift2, block.img_norm2(out), 1 + scale2)
            return clamp_half(out + gate2 * self.run_mlp(block.img_mlp, name, hidden))
        return Inputs(q, k, v, finish)

    def make_single_inputs(self, block: nn.Module, name: str, msk: Tensor, mod: Sequence[Tensor], pe: Tensor) -> Inputs:
        """The single blocks compute attention and MLP in parallel, by one layer before and one after both."""
        shift, scale, gate = mod
        before = torch.addcmul(shift, block.pre_norm(msk), 1 + scale)
        fused = self.run_layer(block.linear1, f"{name}.linear1", before)
        qkv, hidden = fused.split((3 * block.hidden_size, block.mlp_hidden_dim_first), dim=-1)
        q, k, v = self.split_heads(block.norm, qkv, pe)

        def finish(attention: Tensor) -> Tensor:
            after = torch.cat((attention, block.mlp_act(hidden)), dim=-1)
            return clamp_half(msk + gate * self.run_layer(block.linear2, f"{name}.linear2", after))
        return Inputs(q, k, v, finish)

    def split_heads(self, norm: nn.Module, qkv: Tensor, pe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized and rotated q and k, and v, each (b, H, M, D), of (b, M, 3 * d)."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = norm(q, k, v)
        return apply_rope1(q, pe), apply_rope1(k, pe), v


def clamp_half(x: Tensor) -> Tensor:
    """Overflows in half precision become the largest number, as in the host's streams."""
    if x.dtype == torch.float16:
        return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
    return x


def is_flux(network: nn.Module) -> bool:
    """FLUX.1: later models of the class share one modulation among their blocks, or have no pooled text."""
    return type(network) is Flux and not network.params.global_modulation and network.params.vec_in_dim is not None


def measure_flux(network: nn.Module) -> tuple[int, tuple[int, int]]:
    return network.hidden_size, (len(network.double_blocks), len(network.single_blocks))


def list_flux_inputs(network: nn.Module) -> tuple[str, ...]:
    return ("y", "guidance") if network.params.guidance_embed else ("y",)


def refuse_other_inputs(network: nn.Module) -> None:
    if network.in_channels != network.out_channels:
        raise ValueError(f"model: the input has {network.in_channels} features, the output {network.out_channels} "
                         "(a Fill, Depth or Canny model), so mask tokens do not fit: load FLUX.1-dev or "
                         "FLUX.1-schnell")


def make_blocks(before: int, after: int) -> dict[str, Blocks]:
    """The layers of the host's classes for FLUX, whose MLP has these widths before and after its activation."""
    double = {
        "qkv": Layer("img_attn.qkv", 1, (3,)),
        "proj": Layer("img_attn.proj", 1, (1,), after_keys=True),
        "fc1": Layer("img_mlp.0", 1, (before,), after_keys=True),
        "fc2": Layer("img_mlp.2", after, (1,), after_keys=True),
    }
    single = {
        "linear1": Layer("linear1", 1, (3 + before,)),
        "linear2": Layer("linear2", 1 + after, (1,), after_keys=True),
    }
    return {"double": Blocks("double_blocks.{}", double), "single": Blocks("single_blocks.{}", single)}


def add_modulation(blocks: dict[str, Blocks]) -> dict[str, Blocks]:
    """With the layer that makes a block's own modulation."""
    double, single = blocks["double"], blocks["single"]
    return {"double": Blocks(double.path, double.layers | {MODULATION: Layer("img_mod.lin", 1, (6, 9, 3))}),
            "single": Blocks(single.path, single.layers | {MODULATION: Layer("modulation.lin", 1, (3, 6, 9))})}


FAMILY = Family(
    key="flux",
    title="FLUX.1",
    matches=is_flux,
    measure=measure_flux,
    blocks=add_modulation(make_blocks(4, 4)),
    stream=FluxStream,
    text_layers={"context": "txt_in", "pooled": "vector_in.in_layer"},
    list_prompt_inputs=list_flux_inputs,
    clip_type="FLUX",
    conditioned=True,
    copied_norms=COPIED_NORMS,
    check=refuse_other_inputs,
)
