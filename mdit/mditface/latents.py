"""Latents of the pack's own autoencoder in the host (docs/design/bundled-model.md, section 6)."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

import comfy.latent_formats
import comfy.model_patcher
import comfy.ops
import comfy.sd

from ..shared.text_files import read_header
from ..shared.weight_files import check_count, check_layout, read_shapes
from .autoencoder import Autoencoder, AutoencoderConfig

LATENT_KEY = "mdit.latent"
NUMBERS_A_PIXEL = 64  # that encoding or decoding holds at once: four layers of 32 channels at half the sides


@dataclass(frozen=True)
class LatentStatistics:
    """Of the latents that a model was trained on.

    mean, deviation: of each channel.
    rgb_factors, rgb_bias: the colours that a preview gives to the standardized channels, and to zero; in [-1, 1].
    """
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    rgb_factors: tuple[tuple[float, float, float], ...]
    rgb_bias: tuple[float, float, float]

    def to_metadata(self) -> dict[str, str]:
        return {LATENT_KEY: json.dumps(asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> LatentStatistics:
        """Raises ValueError for a header without statistics."""
        found = read_header(cls, metadata, LATENT_KEY)
        if not len(found.mean) == len(found.deviation) == len(found.rgb_factors):
            raise ValueError(f"{LATENT_KEY}: mean, deviation and rgb_factors must have one entry for each channel")
        return found


class AutoencoderLatent(comfy.latent_formats.LatentFormat):
    """The host's view of the latents: standardized channel by channel for the model.

    header: what a saved model must hold so that it loads again.
    """
    taesd_decoder_name = None

    def __init__(self, metadata: dict[str, str]):
        config = AutoencoderConfig.from_metadata(metadata)
        statistics = LatentStatistics.from_metadata(metadata)
        self.header = config.to_metadata() | statistics.to_metadata()
        self.latent_channels = config.channels
        self.spacial_downscale_ratio = config.ratio
        self.mean = torch.tensor(statistics.mean).view(1, -1, 1, 1)
        self.deviation = torch.tensor(statistics.deviation).view(1, -1, 1, 1)
        self.latent_rgb_factors = statistics.rgb_factors
        self.latent_rgb_factors_bias = statistics.rgb_bias

    def process_in(self, latent: Tensor) -> Tensor:
        return (latent - self.mean.to(latent)) / self.deviation.to(latent)

    def process_out(self, latent: Tensor) -> Tensor:
        return latent * self.deviation.to(latent) + self.mean.to(latent)


def build_autoencoder(metadata: dict[str, str], weights: dict[str, Tensor], path: str, source: str) -> comfy.sd.VAE:
    """The host's VAE with the pack's autoencoder inside. Errors name the file and the input `source`."""
    config = AutoencoderConfig.from_metadata(metadata)
    check_count(config.blocks, weights, "blocks of the autoencoder")
    check_layout(weights, read_shapes(Autoencoder(config, device="meta")), path, source)
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})  # two-dimensional, three colours, input in [-1, 1]
    coder = Autoencoder(config, operations=comfy.ops.disable_weight_init, dtype=vae.vae_dtype)
    vae.first_stage_model = coder.eval()
    vae.downscale_ratio = vae.upscale_ratio = config.ratio
    vae.latent_channels = config.channels
    vae.disable_offload = False

    vae.memory_used_encode = lambda shape, dtype: NUMBERS_A_PIXEL * shape[2] * shape[3] * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: vae.memory_used_encode(shape, dtype) * config.ratio ** 2
    offload_device = vae.patcher.offload_device
    vae.patcher = comfy.model_patcher.CoreModelPatcher(coder, load_device=vae.device, offload_device=offload_device)
    coder.load_state_dict(weights, assign=vae.patcher.is_dynamic())
    vae.size = None
    vae.model_size()
    return vae
