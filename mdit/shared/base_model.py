"""Base models of the host from weights of ours: number types and patcher."""
from __future__ import annotations

import torch
from torch import Tensor

import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models_base
import comfy.utils
from comfy.model_base import BaseModel


def set_dtype(model_config: comfy.supported_models_base.BASE, weights: dict[str, Tensor],
              dtype: torch.dtype | None) -> torch.dtype:
    """Sets the weights' type and the type that is computed in; returns the first. None leaves both to the host.

    Weights of a type that the model does not support are cast for the computation.
    """
    supported = model_config.supported_inference_dtypes
    if dtype is None:
        dtype = management.unet_dtype(model_params=comfy.utils.calculate_parameters(weights),
                                      supported_dtypes=supported, weight_dtype=comfy.utils.weight_dtype(weights))
    cast = management.unet_manual_cast(dtype if dtype in supported else None, management.get_torch_device(), supported)
    model_config.set_inference_dtype(dtype, cast)
    return dtype


def build_patcher(model: BaseModel, weights: dict[str, Tensor],
                  disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """A patcher of a model on the offload device, with the weights loaded."""
    offload_device = management.unet_offload_device()
    Patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = Patcher(model, load_device=management.get_torch_device(), offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher
