"""The mask as a conditioning carries it, and as one sampling run sees it (docs/design/mditface.md, section 6.2)."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ldm.common_dit
import comfy.model_management

from ..labelmap import CLASSES, PALETTE, resize_nearest, to_image
from ..shared.frames import encode_pictures, scale_in
from ..shared.masks import choose_maps
from .cache import StaticStore
from .config import MaskLayout
from .exemplar_branch import ExemplarTokens, MatchSide
from .local_window import count_slots
from .math import patchify
from .placements import ON_IMAGE, PLACEMENTS, SUBJECT_SIDE
from .reductions import EXACT, REDUCTIONS, Reduction
from .tokens import MaskTokens, make_mask_tokens

CPU = torch.device("cpu")
NO_CLASS = -1
NO_GATE = ("mask: this adapter reads one picture, but the mask is a label map. Face-MoGLE's LoRA needs its gate: load "
           "both files with 'Load Face-MoGLE'. For OminiControl connect 'Picture to Mask (MDiT)'. A mask for "
           "another adapter needs that adapter at 'Apply Mask (MDiT)'")


class EncodedPictures(NamedTuple):
    """Pictures as latents (n, C, h, w) of those that differ, and for each picture the number of its latent."""
    latents: Tensor
    numbers: list[int]


def encode_distinct(vae, pictures: Iterable[Tensor]) -> EncodedPictures:
    """Encodes each distinct picture (H, W, 3) once."""
    latents: list[Tensor] = []
    numbers: dict[bytes, int] = {}
    order: list[int] = []
    for picture in pictures:
        comfy.model_management.throw_exception_if_processing_interrupted()
        digest = hashlib.blake2b(picture.contiguous().numpy()).digest()
        if digest not in numbers:
            numbers[digest] = len(latents)
            latents.append(vae.encode(picture[None]).to(CPU, torch.float32))
        order.append(numbers[digest])
    return EncodedPictures(torch.cat(latents), order)


class MaskSource:
    """MDIT_MASK: what a model reads beside text and image, and the cache of what it computes of it.

    Opaque to the host: a copy or deep copy is the same object, and a pickle leaves the cache behind. Its tensors lie on
    the CPU, wherever the node's inputs were, until a run needs them.

    node, kind, resampling: title of the node that makes it, what it is made of, how that is resized; for messages.
    placement: a name of PLACEMENTS.
    visible: (19,), 0 for hidden classes; None for what has no classes.
    shape: (b, H, W) of what it is made of.
    reduction: a name of REDUCTIONS.
    vae: a host VAE or None.
    """
    node: str
    kind: str
    resampling: str
    placement = ON_IMAGE
    visible: Tensor | None = None

    def __init__(self, shape: tuple[int, int, int], reduction: str = "off", vae=None):
        self.shape = tuple(shape)
        self.reduction = reduction
        self.vae = vae
        self.store = StaticStore()
        self.latents: dict[tuple, Tensor] = {}

    def __copy__(self) -> MaskSource:
        return self

    def __deepcopy__(self, memo) -> MaskSource:
        return self

    def check(self, layout: MaskLayout):
        """Raises ValueError for a model that cannot read it."""

    def resize_labels(self, height: int, width: int) -> Tensor:
        """Class indices of this size, (b, height, width); NO_CLASS where a pixel has none."""
        raise NotImplementedError

    def draw(self, height: int, width: int, palette) -> Tensor:
        """The images of this size that the VAE encodes, (b, height, width, 3)."""
        raise NotImplementedError

    def encode(self, height: int, width: int, palette) -> Tensor:
        """The encoded images, (b, C, h, w). Each size and palette is encoded once.

        height, width: of the images in pixels. palette: colors of the classes; () for the standard ones.
        Raises ValueError without a VAE.
        """
        palette = palette or PALETTE
        if (height, width, palette) not in self.latents:
            self.check_vae()
            image = self.draw(height, width, palette)
            self.latents[height, width, palette] = encode_pictures(self.vae, image).to(CPU, torch.float32)
        return self.latents[height, width, palette]

    def check_vae(self):
        """Raises ValueError without a VAE."""
        if self.vae is None:
            raise ValueError("vae: this model reads the mask as an encoded image: connect the model's VAE to the 'vae' "
                             f"input of '{self.node}'")


class MaskInput(MaskSource):
    """Label maps (b, H, W) of class indices."""
    node = "Label Map to Mask (MDiT)"
    kind = "label map"
    resampling = "nearest neighbor"

    def __init__(self, labels: Tensor, visible: Tensor, reduction: str = "off", vae=None):
        super().__init__(labels.shape, reduction, vae)
        self.labels = labels.to(CPU, copy=True)
        self.visible = visible.to(CPU, copy=True)
        self.pictures: dict[tuple, EncodedPictures] = {}

    def __reduce__(self):
        return MaskInput, (self.labels, self.visible, self.reduction)

    def check(self, layout: MaskLayout):
        if not layout.classes:
            raise ValueError(NO_GATE)

    def resize_labels(self, height: int, width: int) -> Tensor:
        return resize_nearest(self.labels, height, width)

    def draw(self, height: int, width: int, palette) -> Tensor:
        labels = torch.where(self.visible.bool()[self.labels.long()], self.labels, 0)
        return to_image(resize_nearest(labels, height, width), palette)

    def encode_pictures(self, height: int, width: int, drawing: Hashable, draw: Callable) -> EncodedPictures:
        """The pictures (height, width, 3) that draw(labels, visible) yields of the label maps at this size.

        drawing: stands for `draw`. Each size and drawing is encoded once. Raises ValueError without a VAE.
        """
        if (height, width, drawing) not in self.pictures:
            self.check_vae()
            pictures = draw(resize_nearest(self.labels, height, width), self.visible)
            self.pictures[height, width, drawing] = encode_distinct(self.vae, pictures)
        return self.pictures[height, width, drawing]


class ExemplarInput(MaskInput):
    """Faces whose appearance is taken over, and the cache of what a model computes of them.

    images: (b, H, W, 3) in 0..1.
    labels: label maps (b, h, w) of the same faces.
    vae: the model's.
    """

    def __init__(self, images: Tensor, labels: Tensor, vae):
        super().__init__(labels, torch.ones(len(CLASSES)), "off", vae)
        self.images = images.to(CPU, torch.float32, copy=True)
        self.encoded: dict[tuple[int, int], Tensor] = {}

    def __reduce__(self):
        return ExemplarInput, (self.images, self.labels, None)

    def encode_images(self, height: int, width: int) -> Tensor:
        """The images stretched to height x width pixels and encoded, (b, C, h, w). Encoded once."""
        if (height, width) not in self.encoded:
            stretched = F.interpolate(self.images.movedim(-1, 1), (height, width), mode="bicubic", antialias=True)
            latent = self.vae.encode(stretched.clamp(0, 1).movedim(1, -1))
            self.encoded[height, width] = latent.to(CPU, torch.float32)
        return self.encoded[height, width]


class MaskReference:
    """What a conditioning holds: a mask, its strength, and the range of the schedule in which the mask is read.

    start, end: fractions of the schedule.
    exemplar: read wherever the mask is read, times its own strength; None without one.
    """

    def __init__(self, mask: MaskSource, strength: float = 1.0, start: float = 0.0, end: float = 1.0,
                 exemplar: ExemplarInput | None = None, exemplar_strength: float = 1.0):
        self.mask = mask
        self.strength = strength
        self.start = start
        self.end = end
        self.exemplar = exemplar if exemplar_strength else None
        self.exemplar_strength = exemplar_strength

    def with_exemplar(self, exemplar: ExemplarInput, strength: float) -> MaskReference:
        return MaskReference(self.mask, self.strength, self.start, self.end, exemplar, strength)

    def __copy__(self) -> MaskReference:
        return self

    def __deepcopy__(self, memo) -> MaskReference:
        return self

    def is_active(self, model_sampling, sigma: Tensor) -> bool:
        if self.strength == 0 or (self.start, self.end) == (0, 1):  # no range: no need to wait for the device
            return self.strength > 0
        return bool(model_sampling.percent_to_sigma(self.end) <= sigma <= model_sampling.percent_to_sigma(self.start))


class BoundMask:
    """A reference bound to the latents of one run, (B, C, H, W) or (B, C, 1, H, W), and to its model's layout.

    batch_index: of the latents, where it is known; see `choose_maps`. Raises ValueError for maps that do not fit.
    """

    def __init__(self, reference: MaskReference, latents: torch.Size, model, layout: MaskLayout,
                 batch_index: list[int] | None = None):
        self.reference = reference
        self.latents = latents
        self.layout = layout
        self.pixels = model.latent_format.spacial_downscale_ratio
        mask = reference.mask
        mask.check(layout)
        self.maps = choose_maps(mask.shape[0], latents[0], batch_index)
        if self.maps is None:
            numbered = "" if batch_index is None else f" with the numbers {batch_index} (batch_index)"
            raise ValueError(f"latent_image: {latents[0]} latents{numbered}, but the mask has {mask.shape[0]} "
                             f"{mask.kind}s: use one {mask.kind}, or one for each latent. For latents out of a larger "
                             "batch (LatentFromBatch), only 'Face Sampler (MDiT)' can tell which "
                             f"{mask.kind}s are theirs")
        if len(latents) == 5 and latents[2] > 1:
            raise ValueError(f"latent_image: it holds {latents[2]} frames, but a mask lies on one image: connect an "
                             "empty latent of one frame, such as from 'EmptySD3LatentImage'")
        self.regions: dict[tuple, tuple[MaskTokens, bytes]] = {}
        self.shift = PLACEMENTS[mask.placement].shift
        self.condition = layout.condition or (SUBJECT_SIDE if self.shift else 0)
        self.size = (self.condition,) * 2 if self.condition else tuple(side * self.pixels for side in latents[-2:])
        height, width = self.size
        self.labels = mask.resize_labels(height, width)[self.maps]  # (b, height, width)
        self.latent = self.encode_latent(model) if layout.tokenizer == "vae_palette" else None
        reads_exemplar = layout.exemplar and reference.exemplar
        self.exemplar = BoundExemplar(self, model, batch_index) if reads_exemplar else None

    def encode_maps(self, height: int, width: int) -> Tensor:
        """The label maps at this size in pixels as encoded images, (b, C, h, w)."""
        return self.reference.mask.encode(height, width, self.layout.palette)[self.maps]

    def encode_latent(self, model) -> Tensor:
        """The encoded images as the model sees latents, (b, C, h, w)."""
        height, width = self.size
        latent = scale_in(model, self.encode_maps(height, width))
        expected = (self.latents[1], height // self.pixels, width // self.pixels)
        if tuple(latent.shape[1:]) != expected:
            raise ValueError(f"vae: the one at '{self.reference.mask.node}' makes latents {tuple(latent.shape[1:])} "
                             f"of {width} x {height} pixels, the model works on {expected}: connect the "
                             "VAE that belongs to the model")
        return latent

    @property
    def store(self) -> StaticStore:
        return self.reference.mask.store

    @property
    def rows(self) -> int:
        """1 where all latents read the same, else the number of latents."""
        exemplars = 1 if self.exemplar is None else len(self.exemplar.patches)
        return max(len(self.labels), exemplars)

    def list_cached_parts(self) -> list[BoundMask | BoundExemplar]:
        """The parts of this reference that have a store: the mask, and the exemplar on it."""
        return [self] if self.exemplar is None else [self, self.exemplar]

    def list_notes(self) -> list[str]:
        """Lines for the report: where the label map or picture was stretched."""
        mask = self.reference.mask
        _, h, w = mask.shape
        height, width = (side * self.pixels for side in self.latents[-2:])
        if self.shift or math.isclose(h / w, height / width, rel_tol=0.01):
            return []
        return [f"{mask.kind} {w} x {h} resized to {width} x {height} by {mask.resampling}, because the latent has "
                "another aspect ratio"]

    def get_tokens(self, area: tuple | None, reduction: Reduction | None = None) -> tuple[MaskTokens, bytes]:
        """Tokens for the region `area` (h, w, y, x in latent cells; None for all) and their digest.

        Every region reads a condition of fixed size as a whole, at its own position. `reduction` is the mask's if None.
        """
        reduction = reduction or REDUCTIONS[self.reference.mask.reduction]
        key = area, reduction
        if key not in self.regions:
            tokens = self.make_tokens(area or (*self.latents[-2:], 0, 0), reduction)
            self.regions[key] = tokens, tokens.digest()
        return self.regions[key]

    def make_tokens(self, area: tuple, reduction: Reduction) -> MaskTokens:
        visible = self.reference.mask.visible
        h, w, y, x = area
        patch = self.layout.patch
        if self.shift:
            rows, columns = self.shift
            return make_mask_tokens(self.labels, self.latent, visible, self.layout, self.pixels, reduction,
                                    offset=(-rows, -columns))
        if self.condition:
            extent, region = (tuple(-(-side // patch) for side in sides) for sides in (self.latents[-2:], (h, w)))
            return make_mask_tokens(self.labels, self.latent, visible, self.layout, self.pixels, reduction, extent,
                                    offset=(y / patch, x / patch), region=region)
        p = self.pixels
        labels = self.labels[:, y * p:(y + h) * p, x * p:(x + w) * p]
        latent = None if self.latent is None else self.latent[:, :, y:y + h, x:x + w]
        return make_mask_tokens(labels, latent, visible, self.layout, p, reduction)

    def plan_bytes(self, area: tuple | None, itemsize: int, radius: int) -> int:
        """Bytes of the keys and values to come for the region `area`, in strips for a radius above 0."""
        tokens, _ = self.get_tokens(area)
        b, M, _ = tokens.tokens.shape
        if radius:
            M = count_slots(tokens.grid, radius)
        return 2 * self.layout.blocks * b * M * self.layout.width * itemsize


class BoundExemplar:
    """The exemplar of a mask, bound to the same run and layout as the mask."""

    def __init__(self, mask: BoundMask, model, batch_index: list[int] | None):
        self.exemplar = mask.reference.exemplar
        self.mask = mask
        count = mask.latents[0]
        images = len(self.exemplar.images)
        chosen = choose_maps(images, count, batch_index)
        if chosen is None:
            raise ValueError(f"exemplar: {images} images for {count} latents: connect one image, or one for each "
                             "latent")
        height, width = mask.size
        latent = self.exemplar.encode_images(height, width)[chosen]
        if latent.shape[1:] != mask.latents[1:]:
            raise ValueError(f"vae: the one at 'Apply Exemplar (MDiT)' makes latents {tuple(latent.shape[1:])} where "
                             f"the model works on {tuple(mask.latents[1:])}: connect the VAE that belongs to the model")
        self.labels = BoundMask(MaskReference(self.exemplar), mask.latents, model, mask.layout, batch_index)
        patch = mask.layout.patch
        padded = comfy.ldm.common_dit.pad_to_patch_size(model.process_latent_in(latent), (patch, patch))
        self.patches = patchify(padded, patch)  # (b, M, C * patch^2)
        self.digest = hashlib.blake2b(self.patches.contiguous().view(torch.uint8).numpy()).digest()

    @property
    def store(self) -> StaticStore:
        return self.exemplar.store

    def get_tokens(self, area: tuple | None) -> tuple[ExemplarTokens, tuple]:
        """The tokens for the region `area` of the target, and their digest. Every region reads the whole exemplar."""
        target, target_digest = self.mask.get_tokens(area, EXACT)
        labels, labels_digest = self.labels.get_tokens(None)
        tokens = ExemplarTokens(self.make_side(target, area), self.make_side(labels, None), self.patches)
        return tokens, (target_digest, area, labels_digest, self.digest)

    def make_side(self, tokens: MaskTokens, area: tuple | None) -> MatchSide:
        """What is compared of these tokens, with positions as fractions of the whole image."""
        corner = torch.tensor([0.0, 0.0] if area is None else area[2:])
        cells = (tokens.list_positions() + 0.5) * self.mask.layout.patch + corner
        return MatchSide(tokens.tokens, cells / torch.tensor(self.mask.latents[-2:]), tokens.grid)

    def plan_bytes(self, area: tuple | None, itemsize: int, radius: int) -> int:
        """The same number for every region and radius."""
        return self.patches.shape[0] * self.patches.shape[1] * self.mask.layout.exemplar * itemsize
