"""PT-DiT in the host: base model, detection and loading (docs/design/pt-dit.md, sections 2, 8 and 12)."""
from __future__ import annotations

import torch

import comfy.conds
import comfy.latent_formats
import comfy.model_management
import comfy.supported_models_base
from comfy.model_base import BaseModel, ModelType

from ..shared.base_model import build_patcher, set_dtype
from ..shared.weight_files import check_finite, check_layout, read_state_dict, read_shapes
from .config import PTDiTConfig, PTDiTSettings, read_config
from .model import OPTIONS_KEY, PTDiT

SOURCE = "model_name"
STORED_TABLE = "pos_embed.pos_embed"  # for one size only; the formula gives it for every size
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


def load_pt_dit(path: str, dtype: torch.dtype | None = None, disable_dynamic: bool = False):
    """Loads the transformer as a MODEL. `dtype` sets the type of the weights; None leaves it to the host.

    Raises ValueError, naming the file and what is wrong, unless it is a complete PT-DiT.
    """
    weights = read_state_dict(path, SOURCE)
    try:
        config = read_config(weights, path)
    except ValueError as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    weights.pop(STORED_TABLE, None)
    model_config = PTDiTModelConfig(config)
    dtype = set_dtype(model_config, weights, dtype)
    model = PTDiTBaseModel(model_config, device=comfy.model_management.unet_offload_device())
    check_layout(weights, read_shapes(model.diffusion_model), path, SOURCE, allow_unknown=True)
    check_finite(weights, path, SOURCE)
    patcher = build_patcher(model, weights, disable_dynamic)
    patcher.cached_patcher_init = (load_pt_dit, (path, dtype))
    return patcher


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
