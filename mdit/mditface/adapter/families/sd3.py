"""SD3 and SD3.5 (docs/design/adapters.md, section 5.1)."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT, split_qkv

from ...prompt import Prompt
from ...tokens import MaskTokens
from ..streams import Inputs, MaskStream
from .base import MODULATION, Blocks, Family, Layer


class SD3Stream(MaskStream):
    """On the host's class MMDiT."""
    lists = {"double": ("joint_blocks", "x_block")}

    def __init__(self, network, config, terms, weight):
        super().__init__(network, config, terms, weight)
        self.heads = network.num_heads

    def choose_block_call(self, i: int, original: Callable) -> Callable:
        """Avoids the host's `original`, which adds activation checkpointing."""
        return partial(self.run_block, i)

    def run_block(self, i: int, args: dict) -> dict:
        txt, img = self.network.joint_blocks[i](args["txt"], args["img"], c=args["vec"], use_checkpoint=False,
                                                transformer_options=args["transformer_options"])
        return {"txt": txt, "img": img}

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, None]:
        patch = self.network.patch_size
        latent = tokens.latent.to(features)  # (b, C, h * patch, w * patch)
        embedded = self.network.x_embedder(latent)  # (b, M, d)
        rows, columns = tokens.extent
        table = self.network.cropped_pos_embed([rows * patch, columns * patch], device=latent.device)
        table = comfy.ops.cast_to_input(table.view(rows, columns, -1), embedded)  # the image's grid of (d,)
        position = interpolate(interpolate(table, tokens.rows, 0), tokens.cols, 1)  # (h, w, d)
        return embedded + position.flatten(0, 1), None

    def compute_rotation(self, positions: Tensor, transformer_options: dict) -> None:
        return None

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        vec = self.network.t_embedder(t, dtype=dtype)
        if self.network.y_embedder is None:
            return vec
        pooled = vec.new_zeros(1, self.network.y_embedder.mlp[0].in_features)
        return vec + self.network.y_embedder(pooled)

    def make_inputs(self, i: int, msk: Tensor, vec: Tensor, pe: None) -> Inputs:
        block = self.modules[i].x_block
        name = f"double.{i}"
        count = 9 if block.x_block_self_attn else 6
        shift1, scale1, gate1, shift2, scale2, gate2, *second = self.make_modulation(
            block.adaLN_modulation[1], f"{name}.mod", vec, count)
        norm = block.norm1(msk)
        qkv = self.run_layer(block.attn.qkv, f"{name}.qkv", torch.addcmul(shift1, norm, 1 + scale1))
        q, k, v = self.split_heads(block.attn, qkv)

        def finish(attention: Tensor) -> Tensor:
            out = msk + gate1 * self.run_layer(block.attn.proj, f"{name}.proj", attention)
            if second:
                out = out + self.run_second_attention(block.attn2, norm, *second)
            hidden = torch.addcmul(shift2, block.norm2(out), 1 + scale2)
            return out + gate2 * self.run_mlp((block.mlp.fc1, block.mlp.act, block.mlp.fc2), name, hidden)
        return Inputs(q, k, v, finish)

    def run_second_attention(self, attn: nn.Module, norm: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """SD3.5-medium's attention of the image stream to itself; here, of the mask tokens."""
        q, k, v = self.split_heads(attn, attn.qkv(torch.addcmul(shift, norm, 1 + scale)))
        return gate * attn.proj(optimized_attention(q, k, v, self.heads, skip_reshape=True))

    def split_heads(self, attn: nn.Module, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized q and k, and v, each (b, H, M, D), of (b, M, 3 * d)."""
        q, k, v = split_qkv(qkv, attn.head_dim)  # (b, M, H, D)
        q = attn.ln_q(q)
        k = attn.ln_k(k)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def interpolate(table: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Rows of a table along `dim` at fractional positions, linearly between its rows, held at the ends."""
    positions = positions.to(table.device).clamp(0, table.shape[dim] - 1)
    low = table.index_select(dim, positions.floor().long())
    high = table.index_select(dim, positions.ceil().long())
    fraction = (positions - positions.floor()).to(table.dtype)
    shape = [-1 if d == dim else 1 for d in range(table.ndim)]
    return torch.lerp(low, high, fraction.view(shape))


def is_sd3(network: nn.Module) -> bool:
    return isinstance(network, MMDiT)


def measure_sd3(network: nn.Module) -> tuple[int, tuple[int, int]]:
    return network.hidden_size, (len(network.joint_blocks), 0)


def list_sd3_inputs(network: nn.Module) -> tuple[str, ...]:
    return ("y",)


FAMILY = Family(
    key="sd3",
    title="SD3, SD3.5",
    matches=is_sd3,
    measure=measure_sd3,
    blocks={
        "double": Blocks("joint_blocks.{}.x_block", {
            "qkv": Layer("attn.qkv", 1, (3,)),
            "proj": Layer("attn.proj", 1, (1,), after_keys=True),
            "fc1": Layer("mlp.fc1", 1, (4,), after_keys=True),
            "fc2": Layer("mlp.fc2", 4, (1,), after_keys=True),
            MODULATION: Layer("adaLN_modulation.1", 1, (6, 9, 3)),  # 9 with a second attention
        }),
    },
    stream=SD3Stream,
    text_layers={"context": "context_embedder", "pooled": "y_embedder.mlp.0"},
    list_prompt_inputs=list_sd3_inputs,
    clip_type="SD3",
)
