"""The mask as a conditioning carries it, and as one sampling run sees it (spec section 6.2)."""
from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit

from ..labelmap import CLASSES, PALETTE, resize_nearest, to_image
from .cache import StaticStore
from .config import MaskLayout
from .exemplar_branch import ExemplarTokens, MatchSide
from .math import patchify
from .reductions import EXACT, REDUCTIONS, Reduction
from .tokens import MaskTokens, mask_tokens

CONDITIONING_KEY = "mdit_mask"


def is_mask(key: str) -> bool:
    """Whether a key of a conditioning or a wrapper is that of masks: for all readers, or for one adapter."""
    return key.split(".")[0] == CONDITIONING_KEY


class MaskInput:
    """MDIT_MASK: label maps (b, H, W) of class indices, how to turn them into tokens, and the cache of these.

    Opaque to the host: a copy or deep copy is the same object, and a pickle leaves the cache behind.
    `visible` (19,) is 0 for hidden classes, `vae` a host VAE or None.
    """

    def __init__(self, labels: Tensor, visible: Tensor, reduction: str = "off", vae=None):
        self.labels, self.visible, self.reduction, self.vae = labels.clone(), visible.clone(), reduction, vae
        self.store = StaticStore()
        self.latents: dict[tuple, Tensor] = {}

    def __copy__(self) -> MaskInput:
        return self

    def __deepcopy__(self, memo) -> MaskInput:
        return self

    def __reduce__(self):
        return MaskInput, (self.labels, self.visible, self.reduction)

    def latent(self, height: int, width: int, palette) -> Tensor:
        """The label map's picture in a palette (() for the standard one), height x width pixels, encoded:
        (b, C, h, w). Kept."""
        palette = palette or PALETTE
        if (height, width, palette) not in self.latents:
            if self.vae is None:
                raise ValueError("this model reads the mask as an encoded picture: connect the model's VAE to the "
                                 "'vae' input of the MDiT mask tokenizer")
            labels = torch.where(self.visible.bool()[self.labels.long()], self.labels, 0)
            picture = to_image(resize_nearest(labels, height, width), palette)  # (b, H, W, 3)
            self.latents[height, width, palette] = self.vae.encode(picture).cpu()
        return self.latents[height, width, palette]


class ExemplarInput(MaskInput):
    """Faces whose look a picture takes over: pictures (b, H, W, 3) in 0..1, label maps (b, h, w) of the same faces, the
    model's VAE, and the cache of what a model computes of them."""

    def __init__(self, pictures: Tensor, labels: Tensor, vae):
        super().__init__(labels, torch.ones(len(CLASSES)), "off", vae)
        self.pictures = pictures.clone()
        self.encoded: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self):
        return ExemplarInput, (self.pictures, self.labels, None)

    def picture_latent(self, height: int, width: int) -> Tensor:
        """The pictures stretched to height x width pixels and encoded, (b, C, h, w). Kept."""
        if (height, width) not in self.encoded:
            stretched = F.interpolate(self.pictures.movedim(-1, 1), (height, width), mode="bicubic", antialias=True)
            self.encoded[height, width] = self.vae.encode(stretched.clamp(0, 1).movedim(1, -1)).cpu()
        return self.encoded[height, width]


class MaskReference:
    """What sits in a conditioning: a mask, how strongly it is read, and in which part of the schedule; with an exemplar
    that is read wherever the mask is, times its own strength."""

    def __init__(self, mask: MaskInput, strength: float = 1.0, start: float = 0.0, end: float = 1.0,
                 exemplar: ExemplarInput | None = None, exemplar_strength: float = 1.0):
        self.mask, self.strength, self.start, self.end = mask, strength, start, end
        self.exemplar, self.exemplar_strength = exemplar if exemplar_strength else None, exemplar_strength

    def with_exemplar(self, exemplar: ExemplarInput, strength: float) -> MaskReference:
        return MaskReference(self.mask, self.strength, self.start, self.end, exemplar, strength)

    def __copy__(self) -> MaskReference:
        return self

    def __deepcopy__(self, memo) -> MaskReference:
        return self

    def active(self, model_sampling, sigma: Tensor) -> bool:
        if self.strength == 0 or (self.start, self.end) == (0, 1):  # without a range, spares a wait for the device
            return self.strength > 0
        return bool(model_sampling.percent_to_sigma(self.end) <= sigma <= model_sampling.percent_to_sigma(self.start))


class BoundMask:
    """A reference bound to the latents of one run, (B, C, H, W), and to the layout of the model that reads it."""

    def __init__(self, reference: MaskReference, latents: torch.Size, model, layout: MaskLayout):
        self.reference, self.latents, self.layout = reference, latents, layout
        self.pixels = model.latent_format.spacial_downscale_ratio
        mask = reference.mask
        if mask.labels.shape[0] not in (1, latents[0]):
            raise ValueError(f"latent_image holds {latents[0]} latents but the mask {mask.labels.shape[0]} label maps: "
                             "give one label map, or one for each latent")
        self.regions: dict[tuple, tuple[MaskTokens, bytes]] = {}
        self.size = (layout.condition,) * 2 if layout.condition else tuple(side * self.pixels for side in latents[-2:])
        self.labels = resize_nearest(mask.labels, *self.size)  # (b, height, width)
        self.latent = None
        if layout.tokenizer == "vae_palette":
            self.latent = model.process_latent_in(mask.latent(*self.size, layout.palette))
            expected = (latents[1], *(side // self.pixels for side in self.size))
            if tuple(self.latent.shape[1:]) != expected:
                raise ValueError(f"vae: the one at the mask tokenizer makes latents {tuple(self.latent.shape[1:])} of "
                                 f"{self.size[1]} x {self.size[0]} pixels, the model works on {expected}: connect the "
                                 "VAE that belongs to the model")
        self.exemplar = BoundExemplar(self, model) if layout.exemplar and reference.exemplar else None

    @property
    def store(self) -> StaticStore:
        return self.reference.mask.store

    def uses(self) -> list[BoundMask | BoundExemplar]:
        """What of this reference is computed once and kept."""
        return [self] if self.exemplar is None else [self, self.exemplar]

    def note(self) -> str | None:
        """A line for the report where the label map was stretched."""
        h, w = self.reference.mask.labels.shape[-2:]
        height, width = (side * self.pixels for side in self.latents[-2:])
        if math.isclose(h / w, height / width, rel_tol=0.01):
            return None
        return f"label map {w} x {h} resized to {width} x {height} by nearest neighbour: another aspect than the latent"

    def tokens(self, area: tuple | None, reduction: Reduction | None = None) -> tuple[MaskTokens, bytes]:
        """Tokens for the region `area` (h, w, y, x in latent cells; None for all) and their digest.

        A condition of fixed size is shown whole to each region, at its place. `reduction` is the mask's if None.
        """
        reduction = reduction or REDUCTIONS[self.reference.mask.reduction]
        if (area, reduction.half) not in self.regions:
            h, w, y, x = area or (*self.latents[-2:], 0, 0)
            p, labels, latent, where = self.pixels, self.labels, self.latent, {}
            if self.layout.condition:
                patch = self.layout.patch
                where = {"extent": tuple(-(-side // patch) for side in self.latents[-2:]),
                         "offset": (y / patch, x / patch)}
            else:
                labels = labels[:, y * p:(y + h) * p, x * p:(x + w) * p]
                latent = None if latent is None else latent[:, :, y:y + h, x:x + w]
            tokens = mask_tokens(labels, latent, self.reference.mask.visible, self.layout, p,
                                 reduction, **where)
            self.regions[area, reduction.half] = tokens, tokens.digest()
        return self.regions[area, reduction.half]

    def planned_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the keys and values to come (spec section 6.3)."""
        tokens = self.tokens(None)[0].tokens
        return 2 * self.layout.blocks * tokens.shape[0] * tokens.shape[1] * self.layout.width * dtype.itemsize


class BoundExemplar:
    """The exemplar of a mask, bound like it."""

    def __init__(self, mask: BoundMask, model):
        self.exemplar, self.mask = mask.reference.exemplar, mask
        count, pictures = mask.latents[0], len(self.exemplar.pictures)
        if pictures not in (1, count):
            raise ValueError(f"exemplar: {pictures} pictures for {count} latents: give one, or one for each latent")
        latent = self.exemplar.picture_latent(*mask.size)
        if latent.shape[1:] != mask.latents[1:]:
            raise ValueError(f"vae: the one at 'Apply MDiT Exemplar' makes latents {tuple(latent.shape[1:])} where the "
                             f"model works on {tuple(mask.latents[1:])}: connect the VAE that belongs to the model")
        self.labels = BoundMask(MaskReference(self.exemplar), mask.latents, model, mask.layout)
        patch = mask.layout.patch
        padded = comfy.ldm.common_dit.pad_to_patch_size(model.process_latent_in(latent), (patch, patch))
        self.picture = patchify(padded, patch)  # (b, M, C * patch^2)
        self.digest = hashlib.blake2b(self.picture.contiguous().view(torch.uint8).numpy()).digest()

    @property
    def store(self) -> StaticStore:
        return self.exemplar.store

    def tokens(self, area: tuple | None) -> tuple[ExemplarTokens, tuple]:
        """For the region `area` of the target, whose tokens may come from all of the exemplar, and their digest."""
        (target, *digests), (labels, digest) = self.mask.tokens(area, EXACT), self.labels.tokens(None)
        tokens = ExemplarTokens(self.side(target, area), self.side(labels, None), self.picture)
        return tokens, (*digests, area, digest, self.digest)

    def side(self, tokens: MaskTokens, area: tuple | None) -> MatchSide:
        """With places as shares of the whole picture."""
        corner = torch.tensor([0.0, 0.0] if area is None else area[2:])
        cells = (tokens.positions() + 0.5) * self.mask.layout.patch + corner
        return MatchSide(tokens.tokens, cells / torch.tensor(self.mask.latents[-2:]), tokens.grid)

    def planned_bytes(self, dtype: torch.dtype) -> int:
        return self.picture.shape[0] * self.picture.shape[1] * self.mask.layout.exemplar * dtype.itemsize
