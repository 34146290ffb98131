"""Face-diffuser's published files: which of the two a file is, and its parts through the host's own loaders.

docs/design/face-diffuser.md, section 2.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd

from ..shared.weight_files import check_finite, check_layout, join_names, read_state_dict, read_shapes
from .subject import FaceDiffuserSubject, SubjectEncoder, read_config

SOURCE = "weights_name"
UNET = "unet."
TEXT = "text_encoder."
VAE = "vae."
MODEL_PARTS = (UNET, TEXT, VAE)
SUBJECT_PARTS = ("image_encoder.", "postfuse_module.")
WRAPPER_PREFIX = "module."
IGNORED = "position_ids"


class FaceDiffuserFile(NamedTuple):
    """What a file holds.

    model: the UNet.
    clip: the text encoder.
    vae: the VAE.
    subject: the subject's encoder; None for the scene model's file (TDM).
    """
    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    subject: FaceDiffuserSubject | None


def load_face_diffuser(path: str, dtype: torch.dtype | None = None,
                       embeddings: list[str] | None = None) -> FaceDiffuserFile:
    """Loads the file of the subject model (SDM) or of the scene model (TDM). The kind is detected from the keys.

    dtype: of the UNet's weights; None lets the host choose. embeddings: folders of textual inversions.
    Raises ValueError, naming the file and what is wrong, for anything else. No code in the file is run.
    """
    weights = read_state_dict(path, SOURCE, [WRAPPER_PREFIX])
    check_finite(weights, path, SOURCE)
    try:
        parts = split_parts(weights)
        model = load_unet(parts[UNET], dtype)
        text = {f"text_model.{key}": weight for key, weight in parts[TEXT].items()}
        clip = comfy.sd.load_text_encoder_state_dicts([text], embedding_directory=embeddings)
        config = read_config(weights) if SUBJECT_PARTS[0] in parts else None
        vae = comfy.sd.VAE(sd=parts[VAE])
        vae.throw_exception_if_invalid()
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    subject = None if config is None else build_subject(weights, config, path)
    model.cached_patcher_init = (reload_unet, (path, dtype))
    return FaceDiffuserFile(model, clip, vae, subject)


def split_parts(weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by part, under their names in the part. Raises ValueError if a part is missing."""
    parts = {}
    for key, weight in weights.items():
        part = next(filter(key.startswith, (*MODEL_PARTS, *SUBJECT_PARTS)), None)
        if part:
            parts.setdefault(part, {})[key.removeprefix(part)] = weight
    has_subject = any(part in parts for part in SUBJECT_PARTS)
    expected = MODEL_PARTS + SUBJECT_PARTS if has_subject else MODEL_PARTS
    if missing := [part.rstrip(".") for part in expected if part not in parts]:
        raise ValueError(f"it lacks {join_names(missing)}: it is truncated, or not a file of Face-diffuser; take "
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
    weights = read_state_dict(path, SOURCE, [WRAPPER_PREFIX])
    return load_unet(split_parts(weights)[UNET], dtype, disable_dynamic=disable_dynamic)


def build_subject(weights: dict[str, Tensor], config: dict, path: str) -> FaceDiffuserSubject:
    """The subject's encoder. Every weight keeps the type it has in the file."""
    weights = {key: weight for key, weight in weights.items()
               if key.startswith(SUBJECT_PARTS) and not key.endswith(IGNORED)}
    network = SubjectEncoder(config, comfy.ops.manual_cast, dtype=torch.float32, device="meta")
    check_layout(weights, read_shapes(network), path, SOURCE)
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False)
    patcher = comfy.model_patcher.CoreModelPatcher(network, comfy.model_management.text_encoder_device(),
                                                   comfy.model_management.text_encoder_offload_device())
    return FaceDiffuserSubject(network, patcher)
