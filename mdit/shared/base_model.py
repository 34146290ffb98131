"""Models of ours as the host's: number types and patchers."""
from __future__ import annotations

import torch
from torch import Tensor

import comfy.model_detection
import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
from comfy.model_base import BaseModel

from .weight_files import check_total


def set_dtype(model_config: comfy.supported_models_base.BASE, weights: dict[str, Tensor], dtype: torch.dtype | None):
    """Sets the weights' type and the type that is computed in. None leaves both to the host.

    Weights of a type that the model does not support are cast for the computation.
    """
    supported = model_config.supported_inference_dtypes
    if dtype is None:
        dtype = management.unet_dtype(model_params=comfy.utils.calculate_parameters(weights),
                                      supported_dtypes=supported, weight_dtype=comfy.utils.weight_dtype(weights))
    cast = management.unet_manual_cast(dtype if dtype in supported else None, management.get_torch_device(), supported)
    model_config.set_inference_dtype(dtype, cast)


def make_patcher(model: torch.nn.Module, load_device: torch.device, offload_device: torch.device,
                 disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The host's patcher of a model, with dynamic memory where the host has it."""
    Patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    return Patcher(model, load_device=load_device, offload_device=offload_device)


def check_detected(weights: dict[str, Tensor]):
    """Raises ValueError for a diffusion model that the host would make larger than its file is, as its shapes say."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(weights)
    found = comfy.model_detection.model_config_from_unet(weights, prefix)
    if found is not None:
        check_total(found.get_model(weights, prefix, device="meta").diffusion_model, weights)


def build_patcher(model: BaseModel, weights: dict[str, Tensor],
                  disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A patcher of a model on the offload device, with the weights loaded."""
    offload_device = management.unet_offload_device()
    patcher = make_patcher(model, management.get_torch_device(), offload_device, disable_dynamic)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher
