"""The stand-alone MDiT in the host: base model, detection and loading (docs/design/mditface.md, section 4)."""
from __future__ import annotations

import logging
from typing import NamedTuple

import torch

import comfy.conds
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
from comfy.model_base import BaseModel, ModelType

from ..shared.base_model import build_patcher, set_dtype
from ..shared.weight_files import check_layout, read_weights, read_shapes
from .config import MDiTConfig
from .mask import CONDITIONING_KEY
from .model import MDiT
from .reader import StandAloneReader
from .text import TEXT_KEY, TextConfig, TextEncoder, WordTokenizer

LATENT_FORMATS = {
    "pixel": comfy.latent_formats.ChromaRadiance,
    "sd15": comfy.latent_formats.SD15,
    "sdxl": comfy.latent_formats.SDXL,
    "sd3": comfy.latent_formats.SD3,
    "flux": comfy.latent_formats.Flux,
}
SOURCE = "model_name"  # the input that names the file
TEXT_PREFIX = "text_encoder."
VAE_PREFIX = "vae."


class MDiTModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {}
    sampling_settings = {"shift": 1.0, "multiplier": 1.0}

    def __init__(self, config: MDiTConfig):
        self.latent_format = LATENT_FORMATS[config.latent_format]
        super().__init__({"config": config})
        # FLUX (width 3072, patch 2) has 3.1: activations grow with the width and with the tokens per latent cell.
        self.memory_usage_factor = 3.1 * config.width / 3072 * 4 / config.patch ** 2


class MDiTBaseModel(BaseModel):
    def __init__(self, model_config: MDiTModelConfig, device=None):
        super().__init__(model_config, ModelType.FLOW, device=device, unet_model=MDiT)
        self.memory_usage_factor_conds = (CONDITIONING_KEY,)

    def encode_adm(self, noise, pooled_output=None, **kwargs) -> torch.Tensor:
        width = self.diffusion_model.config.pooled_dim
        if pooled_output is None:
            return noise.new_zeros(1, width)
        if pooled_output.shape[-1] != width:
            raise ValueError(f"conditioning: its pooled text is {pooled_output.shape[-1]} wide, this model needs "
                             f"{width}: encode the text with the CLIP of 'Load MDiT Model'")
        return pooled_output

    def extra_conds(self, **kwargs) -> dict:
        text = kwargs.get("cross_attn")
        width = self.diffusion_model.config.text_dim
        if text is None or text.shape[-1] != width:
            found = "no text" if text is None else f"text tokens {text.shape[-1]} wide"
            raise ValueError(f"conditioning: it holds {found}, this model needs {width}: encode the text with the "
                             "CLIP of 'Load MDiT Model'")
        return super().extra_conds(**kwargs)

    def extra_conds_shapes(self, model_conds={}, **kwargs) -> dict:
        return {CONDITIONING_KEY: model_conds[CONDITIONING_KEY].size()} if CONDITIONING_KEY in model_conds else {}


class LoadedMDiT(NamedTuple):
    """A file's parts; `clip` or `vae` is None where it holds none."""
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None


def load_mdit(path: str, dtype: torch.dtype | None = None) -> LoadedMDiT:
    """Loads a stand-alone MDiT file. `dtype` forces the weights' type; None leaves it to the host.

    Raises ValueError, naming the file and what is wrong, for a file that is not a complete MDiT file.
    """
    weights, metadata = read_weights(path, SOURCE)
    config = read_header(metadata, path)
    clip = load_text_encoder(take_out(weights, TEXT_PREFIX), metadata, path)
    vae = load_vae(take_out(weights, VAE_PREFIX), config)
    return LoadedMDiT(build_mdit(weights, config, dtype, path), clip, vae)


def load_patcher(path: str, dtype: torch.dtype | None, disable_dynamic: bool = False):
    """The MODEL alone; the host calls it again for a second copy of the weights."""
    weights, metadata = read_weights(path, SOURCE)
    take_out(weights, TEXT_PREFIX)
    take_out(weights, VAE_PREFIX)
    return build_mdit(weights, read_header(metadata, path), dtype, path, disable_dynamic)


def read_header(metadata: dict, path: str) -> MDiTConfig:
    try:
        return MDiTConfig.from_metadata(metadata)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error


def take_out(weights: dict, prefix: str) -> dict:
    """Takes the weights under a prefix out of `weights`."""
    return {name[len(prefix):]: weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def build_mdit(weights: dict, config: MDiTConfig, dtype, path: str, disable_dynamic: bool = False):
    model_config = MDiTModelConfig(config)
    dtype = set_dtype(model_config, weights, dtype)
    model = MDiTBaseModel(model_config, device=comfy.model_management.unet_offload_device())
    check_layout(weights, read_shapes(model.diffusion_model), path, SOURCE)
    patcher = build_patcher(model, weights, disable_dynamic)
    StandAloneReader().install(patcher)
    patcher.cached_patcher_init = (load_patcher, (path, dtype))
    return patcher


def load_text_encoder(weights: dict, metadata: dict, path: str) -> comfy.sd.CLIP | None:
    if TEXT_KEY not in metadata:
        return None
    config = TextConfig.from_metadata(metadata)
    check_layout(weights, read_shapes(TextEncoder(config, device="meta")), path, SOURCE)
    target = comfy.supported_models_base.ClipTarget(WordTokenizer, TextEncoder)
    target.params["config"] = config
    return comfy.sd.CLIP(target, tokenizer_data={"mdit_text": config}, state_dict=[weights],
                         parameters=comfy.utils.calculate_parameters(weights))


def load_vae(weights: dict, config: MDiTConfig) -> comfy.sd.VAE | None:
    if config.latent_format == "pixel":
        weights = {"pixel_space_vae": torch.tensor(1.0)}
    if not weights:
        logging.info("The MDiT file contains no VAE: load the %s VAE with 'Load VAE'", config.latent_format)
        return None
    return comfy.sd.VAE(sd=weights)
