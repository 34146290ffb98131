"""Face-diffuser's published files: which of the two it is, and its parts by the host's own loaders (spec section 2)."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd

from ..shared.weight_files import check_finite, join_names, read_tensors
from .subject import FaceDiffuserSubject, SubjectEncoder, read_config

SOURCE = "weights_name"
UNET, TEXT, VAE = MODEL_PARTS = ("unet.", "text_encoder.", "vae.")
SUBJECT_PARTS = ("image_encoder.", "postfuse_module.")
IGNORED = "position_ids"


class Loaded(NamedTuple):
    """`subject` is None for the scene model's file (TDM)."""
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    subject: FaceDiffuserSubject | None


def load(path: str, dtype: torch.dtype | None = None, embeddings: list[str] | None = None) -> Loaded:
    """Loads the file of the subject model (SDM) or of the scene model (TDM); which it is shows in its keys.

    dtype: of the UNet's weights; None lets the host choose. embeddings: folders of textual inversions.
    Raises ValueError, naming the file and what is wrong, for anything else. No code in the file is run.
    """
    weights = read(path)
    check_finite(weights, path, SOURCE)
    try:
        parts = split(weights)
        model = load_unet(parts[UNET], dtype)
        clip = comfy.sd.load_text_encoder_state_dicts(
            [{f"text_model.{key}": weight for key, weight in parts[TEXT].items()}], embedding_directory=embeddings)
        subject = build(weights) if SUBJECT_PARTS[0] in parts else None
        vae = comfy.sd.VAE(sd=parts[VAE])
        vae.throw_exception_if_invalid()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    model.cached_patcher_init = (reload_unet, (path, dtype))
    return Loaded(model, clip, vae, subject)


def read(path: str) -> dict[str, Tensor]:
    found, _ = read_tensors(path, SOURCE)
    if not isinstance(found, dict):
        raise ValueError(f"{SOURCE}: '{path}' holds a {type(found).__name__}, not weights: take the original file")
    return {key.removeprefix("module."): weight for key, weight in found.items() if isinstance(weight, Tensor)}


def split(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by part, without the part's name. Raises ValueError where a part is missing."""
    parts = {}
    for key, weight in weights.items():
        part = next(filter(key.startswith, (*MODEL_PARTS, *SUBJECT_PARTS)), None)
        if part:
            parts.setdefault(part, {})[key.removeprefix(part)] = weight
    expected = MODEL_PARTS + SUBJECT_PARTS * any(part in parts for part in SUBJECT_PARTS)
    if missing := [part.rstrip(".") for part in expected if part not in parts]:
        raise ValueError(f"it lacks {join_names(missing)}: it is truncated, or no file of Face-diffuser; take "
                         "SDM/pytorch_model.bin or TDM/pytorch_model.bin")
    return parts


def load_unet(weights: dict[str, Tensor], dtype: torch.dtype | None, **kwargs) -> comfy.model_patcher.ModelPatcher:
    options = {} if dtype is None else {"dtype": dtype}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options, **kwargs)
    if model is None:
        raise ValueError("its UNet is not that of Stable Diffusion 1.5: take the original file")
    return model


def reload_unet(path: str, dtype: torch.dtype | None, disable_dynamic: bool = False):
    """The same MODEL again, for the host's copies on other devices."""
    return load_unet(split(read(path))[UNET], dtype, disable_dynamic=disable_dynamic)


def build(weights: dict[str, Tensor]) -> FaceDiffuserSubject:
    """The subject's encoder; every size comes from the tensors, each keeps the type it has in the file."""
    weights = {key: weight for key, weight in weights.items()
               if key.startswith(SUBJECT_PARTS) and not key.endswith(IGNORED)}
    management = comfy.model_management
    network = SubjectEncoder(read_config(weights), comfy.ops.manual_cast, dtype=torch.float32, device="meta")
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False)
    patcher = comfy.model_patcher.CoreModelPatcher(network, management.text_encoder_device(),
                                                   management.text_encoder_offload_device())
    return FaceDiffuserSubject(network, patcher)
