"""A DynaST generator under the management of the host, for its images (docs/design/dynast.md, sections 3 and 12)."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from .config import COARSEST, SMOOTH, TOP_K
from .label import Label, check_size, prepare_exemplar, to_uint8
from .model import DynaST
from .weights import read_generator

ACTIVATIONS = 0.5e9 / 256 ** 2  # bytes for each pixel


class SynthesizedImages(NamedTuple):
    """image, warped: (B, S, S, 3) in 0..1. confidence: (B, S, S) in 0..1."""
    image: Tensor
    warped: Tensor
    confidence: Tensor


class PatchedDynaST:
    """The generator in a ModelPatcher, in float32: lower precision selects other candidates."""

    def __init__(self, network: DynaST):
        management = comfy.model_management
        self.network = network.eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device=management.get_torch_device(),
                                                            offload_device=management.unet_offload_device())

    def synthesize(self, label: Label, exemplar: Tensor, exemplar_label: Label,
                   warp_kept: bool = False) -> SynthesizedImages:
        """Renders labels with the appearance of exemplars (B, H, W, 3) in 0..1 of any size, one by one.

        A batch of one serves all. The images have the size of the labels. warp_kept: see `SparseOptions`. Raises
        ValueError, naming the input of the node, for labels of another task, of different sizes or too small, and for
        batches that do not fit.
        """
        self.check(label, exemplar, exemplar_label)
        size = label.size
        batch = max(len(label.channels), len(exemplar), len(exemplar_label.channels))
        comfy.model_management.load_models_gpu([self.patcher], memory_required=ACTIVATIONS * size ** 2)
        progress = comfy.utils.ProgressBar(batch * self.network.steps)
        made = []
        for i in range(batch):
            image = prepare_exemplar(to_uint8(exemplar[i % len(exemplar)]), size)  # (3, S, S)
            made.append(self.synthesize_one(label.channels[i % len(label.channels)], image,
                                            exemplar_label.channels[i % len(exemplar_label.channels)],
                                            warp_kept, progress))
        device = comfy.model_management.intermediate_device()
        return SynthesizedImages._make(torch.cat(images).to(device) for images in zip(*made))

    def synthesize_one(self, label: Tensor, exemplar: Tensor, exemplar_label: Tensor, warp_kept: bool,
                       progress: comfy.utils.ProgressBar) -> SynthesizedImages:
        """Labels (nc, S, S) uint8 and an exemplar (3, S, S) in -1..1 -> a batch of one."""
        device = self.patcher.load_device
        label = label[None].to(device) / 255
        exemplar_label = exemplar_label[None].to(device) / 255
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            found = self.network(label, exemplar[None].to(device), exemplar_label, warp_kept,
                                 advance=lambda: progress.update(1))
        confidence = found.conf[:, 0].clamp(max=1)  # a sum of weights may round up
        return SynthesizedImages(to_image(found.image), to_image(found.warped[-1]), confidence)

    def check(self, label: Label, exemplar: Tensor, exemplar_label: Label):
        config = self.network.config
        label.check(config.nc, "label")
        exemplar_label.check(config.nc, "exemplar_label")
        if label.size != exemplar_label.size:
            raise ValueError(f"exemplar_label: its side is {exemplar_label.size} pixels, that of the label is "
                             f"{label.size}: build both with the same size")
        check_size(label.size)
        if (label.size // COARSEST) ** 2 < config.top_k:
            raise ValueError(f"label: its side of {label.size} pixels has fewer than top_k = {config.top_k} positions "
                             f"at the coarsest level: build it with a larger size, {config.size} as in training")
        lengths = {len(label.channels), len(exemplar), len(exemplar_label.channels)}
        if 0 in exemplar.shape or len(lengths - {1}) > 1:
            raise ValueError(f"exemplar: {len(exemplar)} images for {len(label.channels)} labels and "
                             f"{len(exemplar_label.channels)} exemplar labels: give one, or as many, of each")


def to_image(x: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> (B, H, W, 3) in 0..1."""
    return ((x + 1) / 2).clamp(0, 1).movedim(1, -1)


def load_dynast(path: str, top_k: int = TOP_K, smooth: float = SMOOTH) -> PatchedDynaST:
    """Loads a generator file in the published layout.

    Raises ValueError, naming the file and what is wrong, for any other file.
    """
    config, weights = read_generator(path, top_k, smooth)
    with torch.device("meta"):
        network = DynaST(config, comfy.ops.manual_cast)
    network.load_state_dict(weights, assign=True)
    return PatchedDynaST(network)
