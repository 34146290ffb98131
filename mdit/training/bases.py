"""The host's models that adapters are trained for and measured on, with their VAEs and text encoders."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.sd
from comfy.model_patcher import ModelPatcher

from ..mditface.host import load_mdit
from ..mditface.text import TEXT_KEY
from ..shared.weight_files import read_tensors, read_weights
from .patch_vae import PATCHES_KEY, PatchVAE
from .targets.lowrank import find_base_family


def load_base(path: Path, vae_path: Path | None, clip_paths: tuple[Path, ...]
              ) -> tuple[ModelPatcher, comfy.sd.VAE, comfy.sd.CLIP]:
    """The base with its VAE and text encoder, each from its own file or from the base's file."""
    check_files([path, *clip_paths] + ([vae_path] if vae_path else []))
    if vae_path and clip_paths:
        base = comfy.sd.load_diffusion_model(str(path))
        clip = vae = None
    else:
        base, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=not vae_path, output_clip=not clip_paths)
    family = find_base_family(base)
    if clip_paths:
        clip = load_clip(clip_paths, comfy.sd.CLIPType[family.clip_type])
    if vae_path:
        vae = load_vae(vae_path)
    if clip is None or vae is None:
        name, part = ("clip", "text encoder") if clip is None else ("vae", "VAE")
        raise ValueError(f"{name}: {path} holds no {part}: name its file")
    return base, vae, clip


def check_files(paths: Sequence[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no model file at {path}: see base or model, vae and clip")


def load_vae(path: Path) -> comfy.sd.VAE | PatchVAE:
    weights, metadata = read_weights(str(path), "vae")
    return PatchVAE.load(path) if PATCHES_KEY in metadata else comfy.sd.VAE(sd=weights, metadata=metadata)


def load_clip(paths: tuple[Path, ...], kind: comfy.sd.CLIPType) -> comfy.sd.CLIP:
    """The host's text encoders, or the text encoder of a stand-alone MDiT file."""
    _, header = read_tensors(str(paths[0]), "clip")
    if TEXT_KEY in header:
        return load_mdit(str(paths[0])).clip
    return comfy.sd.load_clip([str(path) for path in paths], clip_type=kind)
