"""Face-diffuser's published files: which of the two a file is, and its parts through the host's own loaders.

docs/design/face-diffuser.md, section 2.
"""
from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd

from ..shared.base_model import check_detected, make_patcher
from ..shared.parts import load_parts
from ..shared.weight_files import check_layout, check_finite, join_names, name_file, read_shapes, read_state_dict
from .subject import FaceDiffuserSubject, SubjectEncoder, read_config

SOURCE = "weights_name"
UNET = "unet."
TEXT = "text_encoder."
VAE = "vae."
MODEL_PARTS = (UNET, TEXT, VAE)
SUBJECT_PARTS = ("image_encoder.", "postfuse_module.")
IGNORED = "position_ids"


class FileContent(NamedTuple):
    """parts: the weights of each part of MODEL_PARTS and SUBJECT_PARTS, under their names in the part."""
    path: str
    parts: dict[str, dict[str, Tensor]]


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
    build_parts = partial(build_unet, dtype=dtype), partial(build_clip, embeddings=embeddings), build_vae, build_subject
    with name_file(path, SOURCE):
        return FaceDiffuserFile(*load_parts(path, read_file, *build_parts))


def read_file(path: str) -> FileContent:
    weights = read_state_dict(path, SOURCE)
    parts = split_parts(weights)
    check_finite({key: weights[key] for key in weights if key.startswith(MODEL_PARTS)}, path, SOURCE)
    return FileContent(path, parts)


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


def build_unet(content: FileContent, dtype: torch.dtype | None, disable_dynamic: bool = False
               ) -> comfy.model_patcher.ModelPatcher:
    options = {} if dtype is None else {"dtype": dtype}
    check_detected(content.parts[UNET])
    model = comfy.sd.load_diffusion_model_state_dict(content.parts[UNET], model_options=options,
                                                     disable_dynamic=disable_dynamic)
    if model is None:
        raise ValueError("its UNet is not that of Stable Diffusion 1.5: take the original file")
    return model


def build_clip(content: FileContent, embeddings: list[str] | None, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    weights = {f"text_model.{key}": weight for key, weight in content.parts[TEXT].items()}
    return comfy.sd.load_text_encoder_state_dicts([weights], embedding_directory=embeddings,
                                                  disable_dynamic=disable_dynamic)


def build_vae(content: FileContent, disable_dynamic: bool = False) -> comfy.sd.VAE:
    """The VAE, for which the host has no switch `disable_dynamic`."""
    vae = comfy.sd.VAE(sd=content.parts[VAE])
    vae.throw_exception_if_invalid()
    return vae


def build_subject(content: FileContent, disable_dynamic: bool = False) -> FaceDiffuserSubject | None:
    """The subject's encoder. Every weight keeps the type it has in the file."""
    if SUBJECT_PARTS[0] not in content.parts:
        return None
    weights = {part + key: weight for part in SUBJECT_PARTS for key, weight in content.parts[part].items()
               if not key.endswith(IGNORED)}
    config = read_config(weights)
    network = SubjectEncoder(config, comfy.ops.manual_cast, dtype=torch.float32, device="meta")
    check_layout(weights, read_shapes(network), content.path, SOURCE)
    network.load_state_dict(weights, assign=True)
    network.requires_grad_(False)
    devices = comfy.model_management.text_encoder_device(), comfy.model_management.text_encoder_offload_device()
    return FaceDiffuserSubject(network, make_patcher(network, *devices, disable_dynamic))
