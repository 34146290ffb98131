"""The label map or sketch as a conditioning carries it, and as a run sees it (docs/design/mmface-dit.md, section 6)."""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.utils

from ..labelmap import to_image
from ..shared.masks import CONDITIONING_KEY, ON_IMAGE, choose_maps
from .model import KINDS

OWN_KEY = f"{CONDITIONING_KEY}.mmface"  # of masks and sketches that are for MMFace-DiT alone
MASK, SKETCH = range(len(KINDS))
TRAINED_SIDES = (256, 512)  # pixels
VAE_ADVICE = "connect FLUX's VAE (ae.safetensors)"


class ConditionPicture:
    """Pictures (b, H, W, 3) in 0..1 that the network reads as latents of the image's size.

    kind: MASK or SKETCH.
    vae, source: a host VAE or None, and the node whose input it is.
    latents: what was encoded before, by size.

    Opaque to the host: a copy or deep copy is the same object.
    """

    def __init__(self, images: Tensor, kind: int, vae, source: str, latents: dict | None = None):
        self.images = images.to("cpu", torch.float32)
        self.kind = kind
        self.vae = vae
        self.source = source
        self.latents = {} if latents is None else latents

    def __copy__(self) -> ConditionPicture:
        return self

    def __deepcopy__(self, memo) -> ConditionPicture:
        return self

    def encode(self, height: int, width: int) -> Tensor:
        """The pictures stretched to a size in pixels and encoded, (b, C, h, w) on the CPU; each size once.

        Raises ValueError without a VAE.
        """
        key = "mmface", height, width
        if key not in self.latents:
            if self.vae is None:
                raise ValueError(f"vae: the model reads the picture as an encoded image: {VAE_ADVICE} to the 'vae' "
                                 f"input of '{self.source}'")
            stretched = stretch(self.images, height, width)
            self.latents[key] = self.vae.encode(stretched).to("cpu", torch.float32)
        return self.latents[key]


class ConditionReference(NamedTuple):
    """What a conditioning holds under OWN_KEY: a picture, and the fractions of the schedule between which it is read.
    """
    picture: ConditionPicture
    start: float = 0.0
    end: float = 1.0


class BoundCondition(NamedTuple):
    """A reference bound to a run.

    latent: (b, 16, h, w) in the model's space, b being 1 or the run's batch.
    kind: MASK or SKETCH.
    sigmas: the highest and the lowest noise level at which it is read.
    """
    latent: Tensor
    kind: int
    sigmas: tuple[float, float]


def draw_mask(mask) -> Tensor:
    """The label maps of an MDIT_MASK in their colors, (b, H, W, 3); hidden classes are background."""
    labels = mask.labels
    return to_image(torch.where(mask.visible.bool()[labels.long()], labels, 0))


def make_picture(mask, vae, source: str, latents: dict | None = None) -> ConditionPicture:
    """What an MDIT_MASK is to the network: label maps are masks, pictures without classes are sketches.

    Raises ValueError for a picture that is placed beside the image.
    """
    if mask.placement != ON_IMAGE:
        raise ValueError(f"placement: MMFace-DiT reads a sketch on the image, not with '{mask.placement}': choose "
                         f"'{ON_IMAGE}' at '{mask.node}'")
    if mask.visible is None:
        return ConditionPicture(draw_sketch(mask.pictures / 255), SKETCH, vae, source, latents)
    return ConditionPicture(draw_mask(mask), MASK, vae, source, latents)


def draw_sketch(image: Tensor) -> Tensor:
    """An IMAGE (b, H, W, C) in the grey values of 8-bit pictures, as Pillow computes them, (b, H, W, 3)."""
    levels = (image[..., :3] * 255).round().clamp(0, 255).int()
    grey = (levels * torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=levels.device)).sum(-1) + 0x8000 >> 16
    return (grey / 255).unsqueeze(-1).expand(-1, -1, -1, 3)


def stretch(images: Tensor, height: int, width: int) -> Tensor:
    """(b, H, W, 3) -> (b, height, width, 3) by the Lanczos filter, in 8 bits, as in training."""
    stretched = comfy.utils.common_upscale(images.movedim(-1, 1), width, height, "lanczos", "disabled")
    return stretched.movedim(1, -1)


def read_reference(options: dict) -> ConditionReference | None:
    """The reference in a conditioning's options: under OWN_KEY, or a mask for every model under CONDITIONING_KEY.

    Raises ValueError for a mask with a strength or an exemplar, which this model cannot follow.
    """
    own = options.get(OWN_KEY)
    general = options.get(CONDITIONING_KEY)
    if own is not None or general is None:
        return own
    if general.strength not in (0, 1):
        raise ValueError(f"strength: MMFace-DiT reads a mask whole, not with {general.strength:g}: set 1, and "
                         "'mask_cfg' of 'Face Sampler (MDiT)' for a stronger or weaker mask")
    if general.exemplar is not None:
        raise ValueError("conditioning: MMFace-DiT reads no exemplar: remove 'Apply Exemplar (MDiT)'")
    if general.strength == 0:
        return None
    mask = general.mask
    return ConditionReference(make_picture(mask, mask.vae, mask.node, mask.latents), general.start, general.end)


def bind(reference: ConditionReference, latents: torch.Size, patcher, batch_index: list[int] | None) -> BoundCondition:
    """A reference for the latents (B, C, h, w) of a run of a MODEL.

    Raises ValueError for pictures or a VAE that do not fit.
    """
    picture = reference.picture
    count = len(picture.images)
    chosen = choose_maps(count, latents[0], batch_index)
    if chosen is None:
        raise ValueError(f"latent_image: {latents[0]} latents, but {count} pictures at '{picture.source}': use one "
                         "picture, or one for each latent")
    model = patcher.model
    pixels = model.latent_format.spacial_downscale_ratio
    height, width = (side * pixels for side in latents[-2:])
    encoded = picture.encode(height, width)[chosen]
    if encoded.shape[1:] != latents[1:]:
        raise ValueError(f"vae: the one at '{picture.source}' makes latents {tuple(encoded.shape[1:])} of {width} x "
                         f"{height} pixels, the model works on {tuple(latents[1:])}: {VAE_ADVICE}")
    sampling = patcher.get_model_object("model_sampling")
    sigmas = tuple(float(sampling.percent_to_sigma(share)) for share in (reference.start, reference.end))
    return BoundCondition(model.process_latent_in(encoded), picture.kind, sigmas)


def describe(references: list[ConditionReference | None], height: int, width: int) -> list[str]:
    """Lines for the report of a run of a size in pixels; an item of `references` for each condition."""
    found = dict.fromkeys(reference.picture for reference in references if reference is not None)
    kinds = " and ".join(dict.fromkeys(KINDS[picture.kind] for picture in found)) or "no condition"
    lines = [f"MMFace-DiT: {kinds} read beside the latent at each step; nothing cached, as it is 0.01 % of a step"]
    for picture in found:
        h, w = picture.images.shape[1:3]
        if not math.isclose(h / w, height / width, rel_tol=0.01):
            lines.append(f"{KINDS[picture.kind]} {w} x {h} stretched to {width} x {height}, because the latent has "
                         "another aspect ratio")
    if (height, width) not in {(side, side) for side in TRAINED_SIDES}:
        lines.append(f"{width} x {height} px: the published files were trained on 256 x 256 or 512 x 512")
    return list(dict.fromkeys(lines))
