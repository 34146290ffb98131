"""The VAE of PT-DiT: the causal 3-D autoencoder of Open-Sora-Plan, for one frame.

See docs/design/pt-dit.md, section 10.
"""
from __future__ import annotations

import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.sd
from comfy.ldm.models.autoencoder import AutoencoderKL

from ..shared.weight_files import check_finite, check_layout, read_state_dict, read_shapes

VAE_SOURCE = "vae_name"
VAE_MARKS = ("decoder.conv_in.conv.weight", "encoder.conv_in.weight", "post_quant_conv.conv.weight")
PREFIXES = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
BILINEAR_LEVELS = (2, 3)


class BilinearUpsample(nn.Module):
    """Replaces the host's nearest-neighbor layer, with the same convolution."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, *carry) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear"))


def load_vae(path: str) -> comfy.sd.VAE:
    """Loads the file as an ordinary VAE for single images.

    Raises ValueError, naming the file and what is wrong, for any other layout.
    """
    weights = read_state_dict(path, VAE_SOURCE)
    if absent := [mark for mark in VAE_MARKS if mark not in weights]:
        raise ValueError(f"{VAE_SOURCE}: '{path}' is not the VAE of PT-DiT (no {absent[0]}): take checkpoint.ckpt of "
                         "Open-Sora-Plan v1.2. VAEs of other families, such as Stable Diffusion, do not fit the "
                         "latents of PT-DiT")
    weights = collapse_time(weights)
    params = read_params(weights)
    with torch.device("meta"):
        shapes = read_shapes(AutoencoderKL(**params))
    check_layout(weights, shapes, path, VAE_SOURCE, allow_unknown=True)
    check_finite(weights, path, VAE_SOURCE)
    vae = comfy.sd.VAE(sd=weights, config={"params": params})
    for level in BILINEAR_LEVELS:
        up = vae.first_stage_model.decoder.up[level]
        up.upsample = BilinearUpsample(up.upsample.conv)
    return vae


def collapse_time(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the 2-D autoencoder that processes one frame as the 3-D one does.

    A causal convolution sees one frame as if all frames before were copies of it, so its kernel is summed over time.
    The names of these convolutions are one level deeper.
    """
    flat = {}
    for name, weight in weights.items():
        if name.startswith(PREFIXES):
            layer, leaf = name.rsplit(".", 1)
            if weights.get(f"{layer}.weight", weight).ndim == 5:
                layer = layer.removesuffix(".conv")
            flat[f"{layer}.{leaf}"] = weight.float().sum(2) if weight.ndim == 5 else weight
    return flat


def read_params(weights: dict[str, Tensor]) -> dict:
    """The parameters of the host's autoencoder, from the shapes."""
    width, channels = weights["encoder.conv_in.weight"].shape[:2]
    levels = count_numbered(weights, "encoder.down.{}.block.0.conv1.weight")
    blocks = count_numbered(weights, "encoder.down.0.block.{}.conv1.weight")
    mult = [weights[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] // width for i in range(levels)]
    latent, embed = weights["post_quant_conv.weight"].shape[:2]
    config = {"double_z": True, "z_channels": latent, "resolution": 256, "in_channels": channels, "out_ch": channels,
              "ch": width, "ch_mult": mult, "num_res_blocks": blocks, "attn_resolutions": [], "dropout": 0.0}
    return {"ddconfig": config, "embed_dim": embed}


def count_numbered(weights: dict[str, Tensor], name: str) -> int:
    """How many weights there are with 0, 1, ... in their name."""
    return next(i for i in itertools.count() if name.format(i) not in weights)
