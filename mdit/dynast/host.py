"""A DynaST generator under the host's management, and its use on the host's pictures (spec sections 3 and 12)."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from .config import COARSEST, SMOOTH, TOP_K
from .label import Label, check_size
from .model import DynaST
from .pictures import prepared, to_bytes
from .weights import read

ACTIVATIONS = 0.5e9 / 256 ** 2  # bytes for each pixel


class Pictures(NamedTuple):
    """image, warped: (B, S, S, 3) in 0..1. confidence: (B, S, S) in 0..1."""
    image: Tensor
    warped: Tensor
    confidence: Tensor


class PatchedDynaST:
    """The generator in a ModelPatcher, in float32: lower precision decides otherwise about what it looks at."""

    def __init__(self, network: DynaST):
        management = comfy.model_management
        self.network = network.eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device=management.get_torch_device(),
                                                            offload_device=management.unet_offload_device())

    def synthesize(self, label: Label, exemplar: Tensor, exemplar_label: Label, warp_kept: bool = False) -> Pictures:
        """The layout of a label with the looks of an exemplar (B, H, W, 3) in 0..1 of any size, one by one; a batch of
        one serves all. The size is that of the labels.

        warp_kept: see `sparse.Asked`. Raises ValueError, which names the node's input, for labels of another task, of
        different sizes or too small, and for batches that do not fit.
        """
        self.check(label, exemplar, exemplar_label)
        batch = max(map(len, (label.channels, exemplar, exemplar_label.channels)))
        comfy.model_management.load_models_gpu([self.patcher], memory_required=ACTIVATIONS * label.size ** 2)
        progress = comfy.utils.ProgressBar(batch * self.network.steps)
        made = []
        for i in range(batch):
            wanted, picture, given = (part[i % len(part)] for part in (
                label.channels, exemplar, exemplar_label.channels))
            made.append(self.one(wanted, prepared(to_bytes(picture), label.size), given, warp_kept, progress))
        device = comfy.model_management.intermediate_device()
        return Pictures(*(torch.cat(part).to(device) for part in zip(*made)))

    def one(self, label: Tensor, exemplar: Tensor, exemplar_label: Tensor, warp_kept: bool, progress) -> Pictures:
        """Labels (nc, S, S) uint8 and an exemplar (3, S, S) in -1..1 to a batch of one."""
        device = self.patcher.load_device
        label, exemplar, exemplar_label = (part[None].to(device) for part in (label, exemplar, exemplar_label))
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            found = self.network(label / 255, exemplar, exemplar_label / 255, warp_kept,
                                 advance=lambda: progress.update(1))
        image, warped = (((part + 1) / 2).clamp(0, 1).movedim(1, -1) for part in (found.image, found.warped[-1]))
        return Pictures(image, warped, found.conf[:, 0].clamp(max=1))  # a sum of shares may round up

    def check(self, label: Label, exemplar: Tensor, exemplar_label: Label):
        config = self.network.config
        label.check(config.nc, "label")
        exemplar_label.check(config.nc, "exemplar_label")
        if label.size != exemplar_label.size:
            raise ValueError(f"exemplar_label: its side is {exemplar_label.size} pixels, the label's {label.size}: "
                             "build both with the same size")
        check_size(label.size)
        if (label.size // COARSEST) ** 2 < config.top_k:
            raise ValueError(f"label: its side of {label.size} pixels has fewer than top_k = {config.top_k} positions "
                             f"at the coarsest level: build it with a larger size, {config.size} as in training")
        lengths = {len(label.channels), len(exemplar), len(exemplar_label.channels)}
        if 0 in exemplar.shape or len(lengths - {1}) > 1:
            raise ValueError(f"exemplar: {len(exemplar)} pictures for {len(label.channels)} labels and "
                             f"{len(exemplar_label.channels)} exemplar labels: give one, or as many, of each")


def load(path: str, top_k: int = TOP_K, smooth: float = SMOOTH) -> PatchedDynaST:
    """The generator in a file of the published layout. Raises ValueError, naming the file and what is wrong, for any
    other."""
    config, weights = read(path, top_k, smooth)
    with torch.device("meta"):
        network = DynaST(config, comfy.ops.manual_cast)
    network.load_state_dict(weights, assign=True)
    return PatchedDynaST(network)
