"""The stand-alone MDiT in the host: base model, detection and loading (docs/design/mditface.md, section 4)."""
from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple

import torch

import comfy.conds
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
from comfy.model_base import BaseModel, ModelType

from ..shared.base_model import build_patcher, set_dtype
from ..shared.masks import CONDITIONING_KEY
from ..shared.parts import load_parts
from ..shared.weight_files import (
    check_count, check_layout, name_file, read_shapes, read_weights, store_header, take_header, take_out)
from .config import CONFIG_KEY, MDiTConfig
from .latents import AutoencoderLatent, build_autoencoder
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
HEADER_PREFIX = "mdit."  # of all keys of a header
TEXT_PREFIX = "text_encoder."
VAE_PREFIX = "vae."


class MDiTModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {}
    sampling_settings = {"shift": 1.0, "multiplier": 1.0}

    def __init__(self, config: MDiTConfig, header: dict[str, str]):
        self.latent_format = LATENT_FORMATS.get(config.latent_format) or partial(AutoencoderLatent, header)
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
                             f"{width}: encode the text with the CLIP of 'Load Face Model (MDiT)'")
        return pooled_output

    def extra_conds(self, **kwargs) -> dict:
        text = kwargs.get("cross_attn")
        width = self.diffusion_model.config.text_dim
        if text is None or text.shape[-1] != width:
            found = "no text" if text is None else f"text tokens {text.shape[-1]} wide"
            raise ValueError(f"conditioning: it holds {found}, this model needs {width}: encode the text with the "
                             "CLIP of 'Load Face Model (MDiT)'")
        return super().extra_conds(**kwargs)

    def extra_conds_shapes(self, model_conds={}, **kwargs) -> dict:
        return {CONDITIONING_KEY: model_conds[CONDITIONING_KEY].size()} if CONDITIONING_KEY in model_conds else {}

    def state_dict_for_saving(self, unet_state_dict, clip_state_dict=None, vae_state_dict=None,
                              clip_vision_state_dict=None) -> dict:
        """What the host's saving nodes write: a stand-alone file, its header in weights of its own.

        Raises ValueError for parts that such a file cannot hold.
        """
        text = clip_state_dict or {}
        if text and TEXT_KEY not in text:
            raise ValueError("clip: it is not the text encoder of an MDiT model, whose file holds no other: save the "
                             "model alone by 'ModelSave'")
        if clip_vision_state_dict is not None:
            raise ValueError("clip_vision: an MDiT file holds none: save the model by 'Save Checkpoint'")
        header = self.diffusion_model.config.to_metadata() | getattr(self.latent_format, "header", {})
        parts = {**unet_state_dict, **store_header(header)}
        for name, weight in text.items():
            parts[name if name == TEXT_KEY else TEXT_PREFIX + name] = weight
        for name, weight in (vae_state_dict or {}).items():
            parts[VAE_PREFIX + name] = weight
        return parts


class MDiTFile(NamedTuple):
    """The content of a file, whose header is its own or the one that `store_header` made.

    model, text, vae: the weights of each part; empty where the file holds none.
    """
    path: str
    header: dict[str, str]
    model: dict[str, torch.Tensor]
    text: dict[str, torch.Tensor]
    vae: dict[str, torch.Tensor]


class LoadedMDiT(NamedTuple):
    """A file's parts; None where it holds none."""
    model: comfy.model_patcher.ModelPatcher | None
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None


def load_mdit(path: str, dtype: torch.dtype | None = None) -> LoadedMDiT:
    """Loads a stand-alone MDiT file, or its text encoder alone. `dtype` forces the type of the model's weights; None
    leaves it to the host.

    Raises ValueError, naming the file and what is wrong, for a file that is not a complete MDiT file.
    """
    with name_file(path, SOURCE):
        return LoadedMDiT(*load_parts(path, read_mdit, partial(build_mdit, dtype=dtype), build_text_encoder, build_vae))


def read_mdit(path: str) -> MDiTFile:
    weights, metadata = read_weights(path, SOURCE)
    header = metadata | take_header(weights, HEADER_PREFIX)
    if holds_text_encoder_alone(header):
        return MDiTFile(path, header, {}, weights, {})
    text = take_out(weights, TEXT_PREFIX)
    vae = take_out(weights, VAE_PREFIX)
    return MDiTFile(path, header, weights, text, vae)


def holds_text_encoder_alone(header: dict[str, str]) -> bool:
    """Whether the host's 'CLIPSave' wrote the file."""
    return TEXT_KEY in header and CONFIG_KEY not in header


def build_mdit(file: MDiTFile, dtype: torch.dtype | None, disable_dynamic: bool = False):
    if holds_text_encoder_alone(file.header):
        return None
    config = MDiTConfig.from_metadata(file.header)
    check_count(config.depth, file.model, "blocks")
    model_config = MDiTModelConfig(config, file.header)
    network = MDiT(config, device="meta", operations=comfy.ops.disable_weight_init)
    check_layout(file.model, read_shapes(network), file.path, SOURCE)
    set_dtype(model_config, file.model, dtype)
    model = MDiTBaseModel(model_config, device=comfy.model_management.unet_offload_device())
    patcher = build_patcher(model, file.model, disable_dynamic)
    StandAloneReader().install(patcher)
    return patcher


def build_text_encoder(file: MDiTFile, disable_dynamic: bool = False) -> comfy.sd.CLIP | None:
    if TEXT_KEY not in file.header:
        return None
    config = TextConfig.from_metadata(file.header)
    check_count(config.layers, file.text, "layers of the text encoder")
    check_layout(file.text, read_shapes(TextEncoder(config, device="meta")), file.path, SOURCE)
    target = comfy.supported_models_base.ClipTarget(WordTokenizer, TextEncoder)
    target.params["config"] = config
    return comfy.sd.CLIP(target, tokenizer_data={"mdit_text": config}, state_dict=[file.text],
                         parameters=comfy.utils.calculate_parameters(file.text), disable_dynamic=disable_dynamic)


def build_vae(file: MDiTFile, disable_dynamic: bool = False) -> comfy.sd.VAE | None:
    """The VAE, for which the host has no switch `disable_dynamic`."""
    if holds_text_encoder_alone(file.header):
        return None
    latent_format = MDiTConfig.from_metadata(file.header).latent_format
    weights = {"pixel_space_vae": torch.tensor(1.0)} if latent_format == "pixel" else file.vae
    if not weights:
        logging.info("The MDiT file contains no VAE: load the %s VAE with 'Load VAE'", latent_format)
        return None
    if latent_format == "autoencoder":
        return build_autoencoder(file.header, weights, file.path, SOURCE)
    return comfy.sd.VAE(sd=weights)
