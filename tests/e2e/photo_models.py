"""Tiny models of the host's own classes, with random weights in the published layouts, for templates of photographs."""
from __future__ import annotations

import re

import torch
from torch import Tensor

import comfy.ops
import comfy.utils
from comfy.cldm.cldm import ControlNet
from comfy.cldm.control_types import UNION_CONTROLNET_TYPES
from comfy.ldm.chroma.model import Chroma
from comfy.ldm.lumina.controlnet import ZImage_Control
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from devtools.server import Server
from mditface.tests.adapter import bases
from mditface.tests.adapter.bases import random_weights
from mditface.tests.e2e.flux_models import rename_norms
from mditface.tests.e2e.probe_nodes.small_models import CHROMA, SDXL, SmallZImage, Z_IMAGE
from mditface.tests.e2e.test_face_diffuser import UNET as SD15

MAKE = dict(device="meta", operations=comfy.ops.disable_weight_init)
QWEN = 2560  # width of Z-Image's text
PUBLISHED = {".attention.out.": ".attention.to_out.0.", ".attention.q_norm.": ".attention.norm_q.",
             ".attention.k_norm.": ".attention.norm_k."}
HINT = range(0, 16, 2)  # the convolutions for a ControlNet's picture
HINT_GAIN = 2.0


def write(server: Server) -> None:
    """Puts all of them into the server's folders."""
    write_z_image(server)
    chroma = Chroma(**bases.CHROMA | CHROMA, **MAKE)
    server.save_weights("diffusion_models", "stand-in-chroma", rename_norms(random_weights(chroma)))
    sdxl = UNetModel(**SDXL, **MAKE)
    server.save_weights("diffusion_models", "stand-in-sdxl", random_weights(sdxl))
    union = make_controlnet(SDXL, union_controlnet_num_control_type=len(UNION_CONTROLNET_TYPES))
    server.save_weights("controlnet", "stand-in-sdxl-union", publish_union(union))
    server.save_weights("diffusion_models", "stand-in-sd15", random_weights(UNetModel(**SD15, **MAKE)))
    server.save_weights("controlnet", "stand-in-sd15-depth", make_controlnet(SD15))


def write_z_image(server: Server) -> None:
    z_image = NextDiT(in_channels=16, n_layers=6, cap_feat_dim=QWEN, qk_norm=True, **SmallZImage.unet_extra_config,
                      **MAKE)  # of 30 layers, the ControlNet reaches each fifth
    server.save_weights("diffusion_models", "stand-in-z-image", random_weights(z_image))
    control = ZImage_Control(**Z_IMAGE, **MAKE)
    server.save_weights("model_patches", "stand-in-z-image-control", publish_z_image(random_weights(control)))


def publish_z_image(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of Z-Image's ControlNet under the keys of the published file."""
    made = {}
    for name, weight in weights.items():
        if ".attention.qkv." in name:
            for part, piece in zip("qkv", weight.chunk(3)):
                made[name.replace(".qkv.", f".to_{part}.")] = piece.contiguous()
            continue
        for own, published in PUBLISHED.items():
            name = name.replace(own, published)
        made[name] = weight
    return made


def make_controlnet(config: dict, **options) -> dict[str, Tensor]:
    """The weights of a ControlNet for a UNet, under the keys of the authors' first files."""
    config = {name: value for name, value in config.items() if name != "out_channels"}
    weights = random_weights(ControlNet(**config, hint_channels=3, **options, **MAKE))
    for name, weight in weights.items():
        if name.startswith("input_hint_block."):  # what a picture shows outlasts its eight convolutions
            weights[name] = weight * HINT_GAIN if weight.ndim > 1 else torch.zeros_like(weight)
    return weights


def publish_union(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of SDXL's union ControlNet under the keys of the published file, which are those of diffusers."""
    published = {own: name for name, own in comfy.utils.unet_to_diffusers(SDXL).items()}
    return {published.get(name) or rename_part(name): weight for name, weight in weights.items()}


def rename_part(name: str) -> str:
    """The published key of a part that a ControlNet has beside its UNet."""
    name = name.replace(".attn.in_proj.", ".attn.in_proj_").replace("middle_block_out.0", "controlnet_mid_block")
    name = re.sub(r"zero_convs\.(\d+)\.0", r"controlnet_down_blocks.\1", name)
    for i, number in enumerate(HINT):
        part = "conv_in" if number == HINT[0] else "conv_out" if number == HINT[-1] else f"blocks.{i - 1}"
        name = name.replace(f"input_hint_block.{number}.", f"controlnet_cond_embedding.{part}.")
    return name
