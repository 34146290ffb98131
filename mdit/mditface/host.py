"""MDiT as a citizen of the host: base model, detection and loading (spec section 4)."""
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

from ..shared.weight_files import listed, read
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
TEXT_PREFIX, VAE_PREFIX = "text_encoder.", "vae."


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
            raise ValueError(f"the conditioning's pooled text is {pooled_output.shape[-1]} wide, this model needs "
                             f"{width}: encode the text with the CLIP output of the MDiT loader")
        return pooled_output

    def extra_conds(self, **kwargs) -> dict:
        text, width = kwargs.get("cross_attn"), self.diffusion_model.config.text_dim
        if text is None or text.shape[-1] != width:
            found = "no text" if text is None else f"text tokens {text.shape[-1]} wide"
            raise ValueError(f"the conditioning holds {found}, this model needs {width}: encode the text with the "
                             "CLIP output of the MDiT loader")
        return super().extra_conds(**kwargs)

    def extra_conds_shapes(self, model_conds={}, **kwargs) -> dict:
        return {CONDITIONING_KEY: model_conds[CONDITIONING_KEY].size()} if CONDITIONING_KEY in model_conds else {}


class LoadedMDiT(NamedTuple):
    """`clip` or `vae` is None where the file holds none."""
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP | None
    vae: comfy.sd.VAE | None


def load(path: str, dtype: torch.dtype | None = None) -> LoadedMDiT:
    """Loads a stand-alone MDiT file. `dtype` forces the weights' type; None leaves it to the host.

    Raises ValueError, naming the file and what is wrong, for anything but a complete and sound MDiT file.
    """
    weights, metadata = read(path, "model_name")
    config = read_header(metadata, path)
    clip = load_text_encoder(split(weights, TEXT_PREFIX), metadata, path)
    vae = load_vae(split(weights, VAE_PREFIX), config)
    return LoadedMDiT(build_patcher(weights, config, dtype, path), clip, vae)


def load_patcher(path: str, dtype: torch.dtype | None, disable_dynamic: bool = False):
    """The MODEL alone; the host calls it again for a second copy of the weights."""
    weights, metadata = read(path, "model_name")
    split(weights, TEXT_PREFIX), split(weights, VAE_PREFIX)
    return build_patcher(weights, read_header(metadata, path), dtype, path, disable_dynamic)


def read_header(metadata: dict, path: str) -> MDiTConfig:
    try:
        return MDiTConfig.from_metadata(metadata)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"model_name: '{path}': {error}") from error


def split(weights: dict, prefix: str) -> dict:
    """Takes the weights under a prefix out of `weights`."""
    return {name[len(prefix):]: weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def check_weights(module: torch.nn.Module, weights: dict, path: str):
    """Raises ValueError unless `weights` are exactly the module's parameters."""
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or unknown:
        raise ValueError(f"model_name: '{path}' does not fit its own header: "
                         f"missing [{listed(missing)}], unknown [{listed(unknown)}]; it was renamed or cut")
    wrong = [f"{name} is {tuple(weights[name].shape)}, must be {shape}" for name, shape in expected.items()
             if tuple(weights[name].shape) != shape]
    if wrong:
        raise ValueError(f"model_name: '{path}' does not fit its own header: {listed(wrong)}")


def build_patcher(weights: dict, config: MDiTConfig, dtype, path: str, disable_dynamic: bool = False):
    management = comfy.model_management
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    model_config = MDiTModelConfig(config)
    supported = model_config.supported_inference_dtypes
    if dtype is None:
        dtype = management.unet_dtype(model_params=comfy.utils.calculate_parameters(weights),
                                      supported_dtypes=supported, weight_dtype=comfy.utils.weight_dtype(weights))
    model_config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device, supported))
    model = MDiTBaseModel(model_config, device=offload_device)
    check_weights(model.diffusion_model, weights, path)
    Patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = Patcher(model, load_device=load_device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    StandAloneReader().install(patcher)
    patcher.cached_patcher_init = (load_patcher, (path, dtype))
    return patcher


def load_text_encoder(weights: dict, metadata: dict, path: str) -> comfy.sd.CLIP | None:
    if TEXT_KEY not in metadata:
        return None
    config = TextConfig.from_metadata(metadata)
    check_weights(TextEncoder(config, device="meta"), weights, path)
    target = comfy.supported_models_base.ClipTarget(WordTokenizer, TextEncoder)
    target.params["config"] = config
    return comfy.sd.CLIP(target, tokenizer_data={"mdit_text": config}, state_dict=[weights],
                         parameters=comfy.utils.calculate_parameters(weights))


def load_vae(weights: dict, config: MDiTConfig) -> comfy.sd.VAE | None:
    if config.latent_format == "pixel":
        weights = {"pixel_space_vae": torch.tensor(1.0)}
    if not weights:
        logging.info("MDiT file without a VAE: load the %s VAE with the host's VAE loader", config.latent_format)
        return None
    return comfy.sd.VAE(sd=weights)
