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

from ..shared.parts import load_parts
from ..shared.weight_files import (
    check_count, check_finite, check_shapes, name_file, read_shape, read_shapes, read_state_dict)

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


class PTDiTVAE(comfy.sd.VAE):
    """Knows the published layout, so that the host saves a file which no other loader takes for its own.

    published: the published names of the causal convolutions' weights.
    """
    published: dict[str, str]

    def get_sd(self) -> dict[str, Tensor]:
        """The weights in the published layout, with kernels for one frame."""
        found = {}
        for name, weight in super().get_sd().items():
            is_kernel = name in self.published and weight.ndim == 4
            found[self.published.get(name, name)] = weight.unsqueeze(2) if is_kernel else weight
        return found


def load_vae(path: str) -> PTDiTVAE:
    """Loads the file as an ordinary VAE for single images.

    Raises ValueError, naming the file and what is wrong, for any other layout.
    """
    with name_file(path, VAE_SOURCE):
        return load_parts(path, read_vae, build_vae)[0]


def read_vae(path: str) -> dict[str, Tensor]:
    """The weights of a file in the published layout."""
    weights = read_state_dict(path, VAE_SOURCE)
    if absent := [mark for mark in VAE_MARKS if mark not in weights]:
        raise ValueError(f"{VAE_SOURCE}: '{path}' is not the VAE of PT-DiT (no {absent[0]}): take checkpoint.ckpt of "
                         "Open-Sora-Plan v1.2. VAEs of other families, such as Stable Diffusion, do not fit the "
                         "latents of PT-DiT")
    with torch.device("meta"):
        flat = collapse_time({name: torch.empty(weight.shape) for name, weight in weights.items()})
        shapes = read_shapes(AutoencoderKL(**read_params(flat)))
    check_shapes(flat, shapes, path, VAE_SOURCE, allow_unknown=True)
    check_finite({name: weights[name] for name in weights if name.startswith(PREFIXES)}, path, VAE_SOURCE)
    return weights


def build_vae(weights: dict[str, Tensor], disable_dynamic: bool = False) -> PTDiTVAE:
    """The VAE of published weights. The host has no switch `disable_dynamic` for it."""
    flat = collapse_time(weights)
    vae = PTDiTVAE(sd=flat, config={"params": read_params(flat)})
    vae.published = {flatten_name(name, weights): name for name in weights if is_causal(name, weights)}
    for level in BILINEAR_LEVELS:
        up = vae.first_stage_model.decoder.up[level]
        up.upsample = BilinearUpsample(up.upsample.conv)
    return vae


def collapse_time(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the 2-D autoencoder that processes one frame as the 3-D one does.

    A causal convolution sees one frame as if all frames before were copies of it, so its kernel is summed over time.
    """
    return {flatten_name(name, weights): weight.float().sum(2) if weight.ndim == 5 else weight
            for name, weight in weights.items() if name.startswith(PREFIXES)}


def flatten_name(name: str, weights: dict[str, Tensor]) -> str:
    """A weight's name in the 2-D autoencoder: that of a causal convolution is one level deeper in the file."""
    layer, _, leaf = name.rpartition(".")
    return f"{layer.removesuffix('.conv')}.{leaf}" if is_causal(name, weights) else name


def is_causal(name: str, weights: dict[str, Tensor]) -> bool:
    """Whether a weight or bias belongs to a convolution over time."""
    return weights.get(name.rpartition(".")[0] + ".weight", weights[name]).ndim == 5


def read_params(weights: dict[str, Tensor]) -> dict:
    """The parameters of the host's autoencoder, from the shapes."""
    width, channels, _, _ = read_shape(weights, "encoder.conv_in.weight", 4)
    levels = count_numbered(weights, "encoder.down.{}.block.0.conv1.weight")
    blocks = count_numbered(weights, "encoder.down.0.block.{}.conv1.weight")
    check_count(levels * blocks, weights, "blocks")
    mult = [read_shape(weights, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] // width for i in range(levels)]
    latent, embed, _, _ = read_shape(weights, "post_quant_conv.weight", 4)
    config = {"double_z": True, "z_channels": latent, "resolution": 256, "in_channels": channels, "out_ch": channels,
              "ch": width, "ch_mult": mult, "num_res_blocks": blocks, "attn_resolutions": [], "dropout": 0.0}
    return {"ddconfig": config, "embed_dim": embed}


def count_numbered(weights: dict[str, Tensor], name: str) -> int:
    """How many weights there are with 0, 1, ... in their name."""
    return next(i for i in itertools.count() if name.format(i) not in weights)
