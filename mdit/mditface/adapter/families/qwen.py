"""Qwen-Image and Qwen-Image-Edit (docs/design/adapters.md, sections 3 to 5.1)."""
from __future__ import annotations

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

from ...prompt import Prompt
from ...tokens import MaskTokens
from ..streams import Inputs, MaskStream
from .base import EMBEDDING, MODULATION, Blocks, Family, Layer


class QwenStream(MaskStream):
    """On the host's class QwenImageTransformer2DModel."""
    lists = {"double": ("transformer_blocks", "img_mod")}

    def __init__(self, network, config, terms, weight):
        super().__init__(network, config, terms, weight)
        self.heads = self.modules[0].num_attention_heads

    def run_block(self, i: int, args: dict) -> dict:
        txt, img = self.network.transformer_blocks[i](
            hidden_states=args["img"], encoder_hidden_states=args["txt"], encoder_hidden_states_mask=None,
            temb=args["vec"], image_rotary_emb=args["pe"], transformer_options=args.get("transformer_options", {}))
        return {"txt": txt, "img": img}

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, Tensor]:
        middle = torch.tensor([side // 2 for side in tokens.region or tokens.extent])  # where an image has (0, 0)
        positions = (tokens.list_positions() - middle).to(features.device)
        msk = self.run_layer(self.network.img_in, EMBEDDING, features)
        return msk, self.compute_rotation(positions, transformer_options).to(features.dtype)  # as the host rounds it

    def compute_rotation(self, positions: Tensor, transformer_options: dict) -> Tensor:
        return self.network.pe_embedder(F.pad(positions, (1, 0))[None])  # the class knows no options for positions

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        return self.network.time_text_embed(t, t.to(dtype))

    def make_inputs(self, i: int, msk: Tensor, vec: Tensor, pe: Tensor) -> Inputs:
        block = self.modules[i]
        name = f"double.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = self.make_modulation(block.img_mod[1], f"{name}.mod", vec, 6)
        hidden = torch.addcmul(shift1, block.img_norm1(msk), 1 + scale1)
        attn = block.attn
        q = self.make_heads(attn.to_q, f"{name}.q", hidden)
        k = self.make_heads(attn.to_k, f"{name}.k", hidden)
        v = self.make_heads(attn.to_v, f"{name}.v", hidden)

        def finish(attention: Tensor) -> Tensor:
            out = msk + gate1 * self.run_layer(attn.to_out[0], f"{name}.proj", attention)
            hidden = torch.addcmul(shift2, block.img_norm2(out), 1 + scale2)
            first, _, second = block.img_mlp.net
            activation = partial(F.gelu, approximate=first.approximate)
            return out + gate2 * self.run_mlp((first.proj, activation, second), name, hidden)
        return Inputs(apply_rope1(attn.norm_q(q), pe), apply_rope1(attn.norm_k(k), pe), v, finish)

    def make_heads(self, layer: nn.Module, name: str, hidden: Tensor) -> Tensor:
        """(b, H, M, D) of (b, M, d)."""
        return self.run_layer(layer, name, hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)


def is_qwen(network: nn.Module) -> bool:
    return type(network) is QwenImageTransformer2DModel


def measure_qwen(network: nn.Module) -> tuple[int, tuple[int, int]]:
    return network.inner_dim, (len(network.transformer_blocks), 0)


def list_qwen_inputs(network: nn.Module) -> tuple[str, ...]:
    return ()


def refuse_layered(network: nn.Module) -> None:
    if network.time_text_embed.use_additional_t_cond:
        raise ValueError("model: Qwen-Image-Layered makes several images at once, and a mask lies on one: load "
                         "Qwen-Image or Qwen-Image-Edit")


FAMILY = Family(
    key="qwen-image",
    title="Qwen-Image",
    matches=is_qwen,
    measure=measure_qwen,
    blocks={
        "double": Blocks("transformer_blocks.{}", {
            "q": Layer("attn.to_q", 1, (1,), after_keys=True),
            "k": Layer("attn.to_k", 1, (1,)),
            "v": Layer("attn.to_v", 1, (1,)),
            "proj": Layer("attn.to_out.0", 1, (1,), after_keys=True),
            "fc1": Layer("img_mlp.net.0.proj", 1, (4,), after_keys=True),
            "fc2": Layer("img_mlp.net.2", 4, (1,), after_keys=True),
            MODULATION: Layer("img_mod.1", 1, (6,)),
        }),
    },
    stream=QwenStream,
    text_layers={"context": "txt_in"},
    list_prompt_inputs=list_qwen_inputs,
    clip_type="QWEN_IMAGE",
    text_mask=True,
    check=refuse_layered,
)
