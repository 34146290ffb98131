"""Tiny models of the host's own classes, with random weights in the published layouts, for templates of photographs."""
from __future__ import annotations

from torch import Tensor

import comfy.ops
from comfy.ldm.lumina.controlnet import ZImage_Control
from comfy.ldm.lumina.model import NextDiT
from devtools.server import Server
from mditface.tests.adapter.bases import random_weights
from mditface.tests.e2e.probe_nodes.small_models import SmallZImage, Z_IMAGE

MAKE = dict(device="meta", operations=comfy.ops.disable_weight_init)
QWEN = 2560  # width of Z-Image's text
PUBLISHED = {".attention.out.": ".attention.to_out.0.", ".attention.q_norm.": ".attention.norm_q.",
             ".attention.k_norm.": ".attention.norm_k."}


def write(server: Server) -> None:
    """Puts all of them into the server's folders."""
    z_image = NextDiT(in_channels=16, n_layers=6, cap_feat_dim=QWEN, qk_norm=True, **SmallZImage.unet_extra_config,
                      **MAKE)  # of 30 layers, the ControlNet reaches each fifth
    server.save_weights("diffusion_models", "stand-in-z-image", random_weights(z_image))
    server.save_weights("model_patches", "stand-in-z-image-control", publish(random_weights(
        ZImage_Control(**Z_IMAGE, **MAKE))))


def publish(weights: dict[str, Tensor]) -> dict[str, Tensor]:
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
