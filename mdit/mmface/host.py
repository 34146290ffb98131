"""MMFace-DiT in the host: base model, detection and loading (docs/design/mmface-dit.md, sections 1, 5 and 8)."""
from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.conds
import comfy.latent_formats
import comfy.model_management
import comfy.ops
import comfy.supported_models_base
from comfy.model_base import BaseModel, ModelType

from ..shared.base_model import build_patcher, set_dtype
from ..shared.parts import load_parts
from ..shared.schedule import compute_flow_sigmas
from ..shared.weight_files import (
    check_count, check_layout, name_file, read_shapes, read_state_dict, store_header, take_header, take_out)
from .condition import MASK
from .config import AUTO, SAVED_KEY, TIMES, MMFaceConfig, find_objective, read_config
from .model import LAST_TIME, MMFaceDiT, compute_flow_time
from .wrappers import BOUND_KEY, SIGMAS_KEY, install

SOURCE = "model_name"
SAVED_PREFIX = "mmface."
MODEL_TYPES = {"flow": ModelType.FLOW, "diffusion": ModelType.EPS}


class MMFaceLatent(comfy.latent_formats.Flux):
    """FLUX's latents without its shift. The colors of previews are those of shifted latents with another bias."""

    def __init__(self):
        super().__init__()
        shifted = self.scale_factor * self.shift_factor
        columns = zip(*self.latent_rgb_factors)
        self.latent_rgb_factors_bias = [bias - shifted * sum(column)
                                        for bias, column in zip(self.latent_rgb_factors_bias, columns)]
        self.shift_factor = 0.0


class MMFaceModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {}
    sampling_settings = {"shift": 1.0, "multiplier": 1000}
    latent_format = MMFaceLatent
    supported_inference_dtypes = [torch.bfloat16, torch.float32]  # float16 is not known to be safe

    def __init__(self, config: MMFaceConfig):
        super().__init__({"config": config})
        # The host's figure for PixArt with width 1152, times the share of text tokens at 256 px.
        self.memory_usage_factor = 0.6 * config.width / 1152 * 4 / config.patch ** 2


class MMFaceBaseModel(BaseModel):
    def __init__(self, model_config: MMFaceModelConfig, device=None):
        self.config: MMFaceConfig = model_config.unet_config["config"]
        super().__init__(model_config, MODEL_TYPES[self.config.objective], device=device, unet_model=MMFaceDiT)

    def process_timestep(self, timestep: Tensor, **kwargs) -> Tensor:
        """The network's times of the host's (B,), whatever multiplier a node has set."""
        if self.config.objective == "diffusion":
            return timestep
        tau = 1 - timestep / getattr(self.model_sampling, "multiplier", 1.0)
        return compute_flow_time(tau, self.config.time)

    def encode_adm(self, pooled_output=None, **kwargs) -> Tensor:
        self.check_text("pooled text", pooled_output)
        return pooled_output

    def check_text(self, what: str, text: Tensor | None):
        width = self.config.text
        if text is None or text.shape[-1] != width:
            found = f"no {what}" if text is None else f"{what} {text.shape[-1]} wide"
            raise ValueError(f"the conditioning holds {found}, this model needs {width}: encode the text with the CLIP "
                             "of 'Load MMFace-DiT CLIP'")

    def extra_conds(self, **kwargs) -> dict:
        """Text is never repeated to a common length, which would change the joint attention. No condition is zeros."""
        text = kwargs.get("cross_attn")
        self.check_text("text", text)
        conds = super().extra_conds(**kwargs)
        bound = kwargs.get(BOUND_KEY)
        noise = kwargs["noise"]
        latent = torch.zeros_like(noise[:1]) if bound is None else bound.latent
        sigmas = (torch.inf, 0.0) if bound is None else bound.sigmas
        conds["c_crossattn"] = comfy.conds.CONDRegular(text)
        conds["c_concat"] = comfy.conds.CONDNoiseShape(latent.to(kwargs["device"]))
        conds["modality"] = comfy.conds.CONDRegular(torch.tensor([MASK if bound is None else bound.kind]))
        conds[SIGMAS_KEY] = comfy.conds.CONDRegular(torch.tensor([sigmas]))
        return conds

    def compute_exact_sigmas(self, sampling, steps: int) -> Tensor:
        """The authors' noise levels (steps + 1,); for a flow with the shift of `sampling`, the host's for this model.
        """
        if self.config.objective == "flow":
            return compute_flow_sigmas(sampling.shift, steps)
        times = torch.linspace(0, LAST_TIME, steps + 1, dtype=torch.float64).round().long()
        return torch.cat((sampling.sigmas[times[1:].flip(0)], torch.zeros(1)))

    def state_dict_for_saving(self, unet_state_dict, clip_state_dict=None, vae_state_dict=None,
                              clip_vision_state_dict=None) -> dict:
        """What the host's saving nodes write: the transformer with its objective. Raises ValueError for other parts."""
        if clip_state_dict or vae_state_dict or clip_vision_state_dict:
            raise ValueError("clip, vae: a file of MMFace-DiT holds the transformer alone: save the model by "
                             "'ModelSave' and the text encoder by 'CLIPSave'")
        weights = {SAVED_PREFIX + name: weight for name, weight in unet_state_dict.items()}
        return weights | store_header(self.config.to_header())


class MMFaceFile(NamedTuple):
    """The content of a published file, or of one that the host saved."""
    path: str
    config: MMFaceConfig
    weights: dict[str, Tensor]


def load_mmface(path: str, dtype: torch.dtype | None = None, objective: str = AUTO, time: str = TIMES[0],
                name: str = ""):
    """Loads the transformer as a MODEL. `dtype` sets the type of the weights; None leaves it to the host.

    objective: an entry of OBJECTIVES, or AUTO for what the header or the `name` of the file says.
    time: an entry of TIMES; it matters to a flow alone.
    Raises ValueError, naming the file and what is wrong, unless it is a complete MMFace-DiT of a known objective.
    """
    read = partial(read_mmface, objective=objective, time=time, name=name or path)
    with name_file(path, SOURCE):
        return load_parts(path, read, partial(build_mmface, dtype=dtype))[0]


def read_mmface(path: str, objective: str, time: str, name: str) -> MMFaceFile:
    weights = read_state_dict(path, SOURCE)
    header = take_header(weights, SAVED_KEY)
    weights = take_out(weights, SAVED_PREFIX) or weights
    config = MMFaceConfig.from_header(header) if header else read_config(weights)
    check_count(config.depth, weights, "blocks")
    network = MMFaceDiT(config, device="meta", operations=comfy.ops.disable_weight_init)
    check_layout(weights, read_shapes(network), path, SOURCE, allow_unknown=True)
    if objective == AUTO:
        objective = config.objective if header else find_objective(name)
    return MMFaceFile(path, dataclasses.replace(config, objective=objective, time=time), weights)


def build_mmface(file: MMFaceFile, dtype: torch.dtype | None, disable_dynamic: bool = False):
    model_config = MMFaceModelConfig(file.config)
    set_dtype(model_config, file.weights, dtype)
    model = MMFaceBaseModel(model_config, device=comfy.model_management.unet_offload_device())
    patcher = build_patcher(model, file.weights, disable_dynamic)
    install(patcher)
    return patcher
