"""Face parsers under the host's management: loading by what is in the file, and parsing pictures of any size."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from ..shared import weight_files
from ..labelmap import CLASSES, PARSER_ORDER
from .bisenet import BiSeNet
from .parser import SIZE, WEIGHTS, FaceParser
from .region import Region, cut, resize
from .segformer import Segformer

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation
SIGNED = (0.5,) * 3, (0.5,) * 3  # -1..1
PUBLISHED_SIZE = 512
OPERATIONS = comfy.ops.manual_cast
SOURCE = "parser_name"  # the input that names the file


class PatchedParser:
    """A face parser: a network (B, 3, size, size) -> logits, in a ModelPatcher.

    normalisation: mean and standard deviation of the channels that the network expects.
    order: order[k] is the label map's id of the network's class k.
    """

    def __init__(self, network: nn.Module, size: int, normalisation: tuple, order: Sequence[int]):
        management = comfy.model_management
        device = management.get_torch_device()
        self.dtype = torch.float16 if management.should_use_fp16(device) else torch.float32
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network.eval().requires_grad_(False).to(self.dtype), load_device=device,
            offload_device=management.text_encoder_offload_device())
        self.size, self.normalisation, self.order = size, torch.tensor(normalisation), torch.tensor(order)

    def parse(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (B, H, W, 3) in 0..1, of any size -> label maps (B, H, W) uint8 and the probabilities (B, H, W) that
        the network gives to them. Raises ValueError for an empty batch."""
        if 0 in pictures.shape:
            raise ValueError(f"image: the batch is empty, shape {tuple(pictures.shape)}: connect at least one picture")
        comfy.model_management.load_models_gpu([self.patcher])
        progress = comfy.utils.ProgressBar(len(pictures))
        parsed = []
        for picture in pictures:
            comfy.model_management.throw_exception_if_processing_interrupted()
            parsed.append(self.parse_one(picture[..., :3]))
            progress.update(1)
        labels, probabilities = map(torch.stack, zip(*parsed))
        return labels, probabilities

    def parse_one(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W, 3) -> (H, W) uint8 and (H, W). The network sees the picture in the middle of a square, undistorted."""
        h, w = picture.shape[:2]
        side = max(h, w)
        top, left = (side - h) // 2, (side - w) // 2
        picture = picture.to(self.patcher.load_device, torch.float32)
        x = resize(cut(picture, Region(-left, -top, side, side)), self.size, self.size)  # (size, size, 3)
        mean, deviation = self.normalisation.to(x)
        x = ((x - mean) / deviation).movedim(-1, 0)[None].to(self.dtype)  # (1, 3, size, size)
        labels, probabilities = most_likely(self.patcher.model(x)[0].float(), side)
        labels = self.order.to(labels)[labels].to(torch.uint8)
        inside, device = (slice(top, top + h), slice(left, left + w)), comfy.model_management.intermediate_device()
        return labels[inside].to(device), probabilities[inside].to(device)


def most_likely(logits: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Logits (classes, h, w) -> each pixel's likeliest class and its probability, both (side, side)."""
    best = logits.new_full((side, side), -torch.inf)
    total, labels = best.clone(), torch.zeros_like(best, dtype=torch.long)
    for k, plane in enumerate(logits):  # all enlarged at once would take gigabytes for a large picture
        plane = F.interpolate(plane[None, None], (side, side), mode="bilinear")[0, 0]
        labels[plane > best] = k
        best = torch.maximum(best, plane)
        total = torch.logaddexp(total, plane)
    return labels, (best - total).exp()


def load(path: str | Path = WEIGHTS) -> PatchedParser:
    """The face parser in a file: the pack's own (safetensors), BiSeNet or Segformer in their published layouts.

    Raises ValueError, naming the file and what is wrong, for anything else.
    """
    weights, _ = weight_files.read_tensors(str(path), SOURCE)
    kind = next((kind for key, kind in KINDS.items() if key in weights), None)
    if kind is None:
        raise ValueError(f"{SOURCE}: '{path}' is no face parser that is known here: use BiSeNet or Segformer weights "
                         "in their published layout, or the bundled file")
    weight_files.check_finite(weights, path, SOURCE)
    return kind(weights, Path(path))


def own(weights: dict[str, Tensor], path: Path) -> PatchedParser:
    return PatchedParser(filled(FaceParser(OPERATIONS), weights, path), SIZE, SIGNED, range(len(CLASSES)))


def bisenet(weights: dict[str, Tensor], path: Path) -> PatchedParser:
    return PatchedParser(filled(BiSeNet(OPERATIONS), weights, path), PUBLISHED_SIZE, IMAGENET, PARSER_ORDER)


def segformer(weights: dict[str, Tensor], path: Path) -> PatchedParser:
    network = Segformer(weights, path.parent)
    return PatchedParser(network, PUBLISHED_SIZE, IMAGENET, network.order)


def filled(network: nn.Module, weights: dict[str, Tensor], path: Path) -> nn.Module:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{SOURCE}: '{path}' holds other weights than its kind has: {error}") from error
    return network


# by a name that only such weights have
KINDS = {"down.0.0.weight": own, "cp.resnet.conv1.weight": bisenet, "segformer.encoder.layer_norm.0.weight": segformer}
