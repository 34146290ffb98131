"""A complete checkpoint of the authors with a small UNet; everything else has the published shapes."""
from __future__ import annotations

import torch
from torch import Tensor

import comfy.ops
import comfy.sd1_clip
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from mditface.mdit.interactdiffusion.model import InteractDiffusionSizes
from mditface.tests.interactdiffusion import tiny

WIDTH = 320  # the host detects Stable Diffusion 1.x by this and the width of its text
UNET = {**tiny.UNET, "model_channels": WIDTH, "channel_mult": (1, 1), "context_dim": 768}
SIZES = InteractDiffusionSizes(768, 64, 512, 768, 30, (WIDTH,) * len(tiny.BLOCKS))
VAE = dict(double_z=True, z_channels=4, resolution=256, in_channels=3, out_ch=3, ch=128, ch_mult=[1, 2, 4, 4],
           num_res_blocks=2, attn_resolutions=[], dropout=0.0)
POOL = 2 ** 22


def pooled(module: torch.nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Weights of a module on the meta device, drawn from one pool of random numbers."""
    pool = 0.02 * torch.randn(POOL, generator=torch.Generator().manual_seed(0)).half()
    one, zero = torch.ones(()).half(), torch.zeros(()).half()
    weights = {}
    for name, weight in module.state_dict().items():
        if name.startswith(prefix) and weight.ndim > 1:
            row = min(weight[0].numel(), (POOL - weight[0].numel()) // len(weight))
            strides = torch.empty(weight.shape, device="meta").stride()
            weights[name[len(prefix):]] = pool.as_strided(weight.shape, (row, *strides[1:])).clone()
        elif name.startswith(prefix):
            weights[name[len(prefix):]] = (one if name.endswith("weight") else zero).repeat(weight.shape)
    return weights


def half(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.half() for name, weight in weights.items()}


def unet() -> dict[str, Tensor]:
    network = UNetModel(**UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    return half(tiny.random_weights(network))


def plugin() -> dict[str, Tensor]:
    return half(tiny.plugin(SIZES))


def complete() -> dict[str, dict]:
    """The weights in `interact-diffusion-v1-2.pth`."""
    with torch.device("meta"):
        text_encoder = comfy.sd1_clip.SD1ClipModel(dtype=torch.float16)
        autoencoder = AutoencoderKL(ddconfig=VAE, embed_dim=4)
    text = pooled(text_encoder, "clip_l.")
    return {"model": {**unet(), **plugin()},
            "text_encoder": {name: weight for name, weight in text.items() if ".text_model." in name}
            | {"transformer.text_model.embeddings.position_ids": torch.arange(77)[None]},
            "autoencoder": pooled(autoencoder), "diffusion": {"betas": torch.ones(1000)}}
