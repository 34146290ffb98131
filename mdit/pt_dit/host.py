"""PT-DiT in the host: base model, detection and loading (docs/design/pt-dit.md, sections 2, 8 and 12)."""
from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

import comfy.conds
import comfy.latent_formats
import comfy.model_management
import comfy.ops
import comfy.supported_models_base
from comfy.model_base import BaseModel, ModelType

from ..shared.base_model import build_patcher, set_dtype
from ..shared.conds import check_additions
from ..shared.parts import load_parts
from ..shared.schedule import compute_flow_sigmas
from ..shared.weight_files import (
    check_count, check_layout, name_file, read_shapes, read_state_dict, store_header, take_header, take_out)
from .config import SAVED_KEY, PTDiTConfig, PTDiTSettings, read_config
from .model import OPTIONS_KEY, PTDiT

SOURCE = "model_name"
STORED_TABLE = "pos_embed.pos_embed"  # for one size only; the formula gives it for every size
SAVED_PREFIX = "pt_dit."
DEFAULT_SHIFT = 2.0  # for 1024 px


class PTDiTModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {}
    sampling_settings = {"shift": DEFAULT_SHIFT, "multiplier": 1000}
    latent_format = comfy.latent_formats.SD15
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # float16 is not known to be safe

    def __init__(self, config: PTDiTConfig):
        super().__init__({"config": config})
        # The host's figure for PixArt with width 1152: in both networks memory peaks in the MLP.
        self.memory_usage_factor = 0.5 * config.width / 1152 * 4 / config.patch ** 2


class PTDiTBaseModel(BaseModel):
    def __init__(self, model_config: PTDiTModelConfig, device=None):
        super().__init__(model_config, ModelType.FLOW, device=device, unet_model=PTDiT)

    def extra_conds(self, **kwargs) -> dict:
        """Text without a mask may be repeated to equal lengths, which changes nothing. Text with a mask may not."""
        check_additions([kwargs], "PT-DiT")
        text = kwargs.get("cross_attn")
        width = self.diffusion_model.config.caption
        if text is None or text.shape[-1] != width:
            found = "no text" if text is None else f"text tokens {text.shape[-1]} wide"
            raise ValueError(f"the conditioning holds {found}, this model needs {width}, those of T5-XXL: load "
                             "t5xxl_fp16.safetensors with the host's 'Load CLIP', type 'pixart'")
        conds = super().extra_conds(**kwargs)
        attn_mask = kwargs.get("attention_mask")
        if attn_mask is not None:
            conds["c_crossattn"] = comfy.conds.CONDRegular(text)
            conds["attention_mask"] = comfy.conds.CONDRegular(attn_mask)
        return conds

    def compute_exact_sigmas(self, sampling, steps: int) -> torch.Tensor:
        """The authors' noise levels (steps + 1,) with the shift of `sampling`, the host's for this model."""
        return compute_flow_sigmas(sampling.shift, steps)

    def state_dict_for_saving(self, unet_state_dict, clip_state_dict=None, vae_state_dict=None,
                              clip_vision_state_dict=None) -> dict:
        """What the host's saving nodes write: the transformer and its sizes, under names of their own.

        Under the published names the host would load the file as a PixArt model. Raises ValueError for other parts.
        """
        if clip_state_dict or vae_state_dict or clip_vision_state_dict:
            raise ValueError("clip, vae: a file of PT-DiT holds the transformer alone: save the model by 'ModelSave' "
                             "and the VAE by 'VAESave'")
        weights = {SAVED_PREFIX + name: weight for name, weight in unet_state_dict.items()}
        return weights | store_header(self.diffusion_model.config.to_header())


class PTDiTFile(NamedTuple):
    """The content of a published file, or of one that the host saved."""
    path: str
    config: PTDiTConfig
    weights: dict[str, torch.Tensor]


def load_pt_dit(path: str, dtype: torch.dtype | None = None):
    """Loads the transformer as a MODEL. `dtype` sets the type of the weights; None leaves it to the host.

    Raises ValueError, naming the file and what is wrong, unless it is a complete PT-DiT.
    """
    with name_file(path, SOURCE):
        return load_parts(path, read_pt_dit, partial(build_pt_dit, dtype=dtype))[0]


def read_pt_dit(path: str) -> PTDiTFile:
    weights = read_state_dict(path, SOURCE)
    header = take_header(weights, SAVED_KEY)
    weights = take_out(weights, SAVED_PREFIX) or weights
    config = PTDiTConfig.from_header(header) if header else read_config(weights, path)
    check_count(config.depth, weights, "blocks")
    weights.pop(STORED_TABLE, None)
    check_layout(weights, read_shapes(PTDiT(config, device="meta", operations=comfy.ops.disable_weight_init)), path,
                 SOURCE, allow_unknown=True)
    return PTDiTFile(path, config, weights)


def build_pt_dit(file: PTDiTFile, dtype: torch.dtype | None, disable_dynamic: bool = False):
    model_config = PTDiTModelConfig(file.config)
    set_dtype(model_config, file.weights, dtype)
    model = PTDiTBaseModel(model_config, device=comfy.model_management.unet_offload_device())
    return build_patcher(model, file.weights, disable_dynamic)


def apply_settings(patcher, settings: PTDiTSettings):
    """A clone of a PT-DiT MODEL with other windows, proxies and positions. Raises ValueError for other models."""
    get_config(patcher)
    patcher = patcher.clone()
    patcher.model_options["transformer_options"][OPTIONS_KEY] = settings
    return patcher


def get_settings(patcher) -> PTDiTSettings:
    """The windows, proxies and positions of a PT-DiT MODEL."""
    return patcher.model_options["transformer_options"].get(OPTIONS_KEY, get_config(patcher).settings)


def get_config(patcher) -> PTDiTConfig:
    """The sizes of a PT-DiT MODEL. Raises ValueError for a MODEL of another family."""
    if not isinstance(patcher.model, PTDiTBaseModel):
        raise ValueError(f"model: this is a {type(patcher.model).__name__}, not a PT-DiT: connect the model of "
                         "'Load PT-DiT Model'")
    return patcher.model.diffusion_model.config
