"""Face parsers under the host's management: detection of a file's format, and parsing of images of any size."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils

from ..labelmap import CLASSES, PARSER_ORDER
from ..shared import weight_files
from ..shared.kept import recall_model
from .bisenet import BiSeNet
from .parser import WEIGHTS, FaceParser, ParserConfig
from .region import Region, crop, resize
from .segformer import Segformer


class Normalization(NamedTuple):
    """Mean and standard deviation of the channels that a network expects."""
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # -1..1
PUBLISHED_SIZE = 512
OPERATIONS = comfy.ops.manual_cast
SOURCE = "parser_name"  # the input that names the file


class PatchedParser:
    """A face parser: a network (B, 3, size, size) -> logits, in a ModelPatcher.

    order: order[k] is the label map's index of the network's class k.
    """

    def __init__(self, network: nn.Module, size: int, normalization: Normalization, order: Sequence[int]):
        management = comfy.model_management
        device = management.get_torch_device()
        self.dtype = torch.float16 if management.should_use_fp16(device) else torch.float32
        use_host_layers(network)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            network.eval().requires_grad_(False).to(self.dtype), load_device=device,
            offload_device=management.text_encoder_offload_device())
        self.size = size
        self.normalization = normalization
        self.order = torch.tensor(order)

    def parse(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) in 0..1 of any size -> label maps and confidences, (B, H, W) uint8 and (B, H, W).

        The confidence is the probability of the predicted class. Raises ValueError for an empty batch.
        """
        if 0 in images.shape:
            raise ValueError(f"image: the batch is empty, shape {tuple(images.shape)}. Connect at least one image")
        comfy.model_management.load_models_gpu([self.patcher])
        progress = comfy.utils.ProgressBar(len(images))
        labels = []
        confidences = []
        for image in images:
            comfy.model_management.throw_exception_if_processing_interrupted()
            label, confidence = self.parse_one(image[..., :3])
            labels.append(label)
            confidences.append(confidence)
            progress.update(1)
        return torch.stack(labels), torch.stack(confidences)

    def parse_one(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(H, W, 3) -> (H, W) uint8 and (H, W). The network sees the image undistorted, in the middle of a square."""
        height, width = image.shape[:2]
        side = max(height, width)
        square = Region(-((side - width) // 2), -((side - height) // 2), side, side)
        pixels = resize(crop(image.to(self.patcher.load_device, torch.float32), square), self.size, self.size)
        labels, confidence = predict_classes(self.patcher.model(self.normalize(pixels))[0].float(), side)
        labels = self.order.to(labels)[labels]  # (side, side)
        rows = slice(-square.y, height - square.y)
        columns = slice(-square.x, width - square.x)
        found = torch.stack([labels.to(confidence), confidence])[:, rows, columns]  # (2, H, W): one wait for the device
        labels, confidence = found.to(comfy.model_management.intermediate_device())
        return labels.to(torch.uint8), confidence

    def normalize(self, pixels: Tensor) -> Tensor:
        """(size, size, 3) in 0..1 -> the network's input (1, 3, size, size)."""
        mean = torch.tensor(self.normalization.mean).to(pixels)
        deviation = torch.tensor(self.normalization.deviation).to(pixels)
        return ((pixels - mean) / deviation).movedim(-1, 0)[None].to(self.dtype)


def use_host_layers(network: nn.Module) -> None:
    """Layers of PyTorch become the host's: with little memory the host loads no others, and computes with its own."""
    for layer in network.modules():
        name = type(layer).__name__
        if type(layer) is getattr(nn, name, None) and hasattr(OPERATIONS, name):
            layer.__class__ = getattr(OPERATIONS, name)


def predict_classes(logits: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Logits (classes, h, w) -> each pixel's most probable class and its probability, both (side, side)."""
    best = logits.new_full((side, side), -torch.inf)
    total = best.clone()
    labels = torch.zeros_like(best, dtype=torch.long)
    for k, plane in enumerate(logits):  # to enlarge all planes at once would take gigabytes for a large image
        comfy.model_management.throw_exception_if_processing_interrupted()
        plane = F.interpolate(plane[None, None], (side, side), mode="bilinear")[0, 0]
        labels = torch.where(plane > best, k, labels)  # where, not an index: that would wait for the device
        best = torch.maximum(best, plane)
        total = torch.logaddexp(total, plane)
    return labels, (best - total).exp()


def recall_parser() -> PatchedParser:
    """The bundled parser, which stays loaded as long as its file stays as it is."""
    return recall_model(load_patched_parser, WEIGHTS)


def load_patched_parser(path: str | Path) -> PatchedParser:
    """The face parser in a file: the bundled network, or BiSeNet or Segformer in their published layouts.

    Raises ValueError, which names the file and its fault, for any other file.
    """
    with weight_files.name_file(path, SOURCE):
        return build_parser(*weight_files.read_weights(str(path), SOURCE), Path(path))


def build_parser(weights: dict[str, Tensor], header: dict[str, str], path: Path) -> PatchedParser:
    """The parser to which the weights of a file belong."""
    build = next((build for key, build in BUILDERS.items() if key in weights), None)
    if build is None:
        raise ValueError(f"{SOURCE}: '{path}' is no face parser that this pack can load. Use BiSeNet or Segformer "
                         "weights in their published layout, or the bundled file")
    return build(weights, header, path)


def build_bundled(weights: dict[str, Tensor], header: dict[str, str], path: Path) -> PatchedParser:
    config = ParserConfig.from_metadata(header)
    network = make_network(partial(FaceParser, config, OPERATIONS), weights, path)
    return PatchedParser(network, config.size, SIGNED, range(len(CLASSES)))


def build_bisenet(weights: dict[str, Tensor], header: dict[str, str], path: Path) -> PatchedParser:
    network = make_network(partial(BiSeNet, OPERATIONS), weights, path)
    return PatchedParser(network, PUBLISHED_SIZE, IMAGENET, PARSER_ORDER)


def build_segformer(weights: dict[str, Tensor], header: dict[str, str], path: Path) -> PatchedParser:
    network = Segformer(weights, path)
    return PatchedParser(network, PUBLISHED_SIZE, IMAGENET, network.order)


def make_network(build: Callable[[], nn.Module], weights: dict[str, Tensor], path: Path) -> nn.Module:
    """A network with the weights of a file. ValueError for weights of another layout, before memory is taken."""
    with torch.device("meta"):
        shapes = weight_files.read_shapes(build())
    weight_files.check_layout(weights, shapes, path, SOURCE)
    network = build()
    network.load_state_dict(weights)
    return network


# by a tensor that only this format has
BUILDERS = {
    "down.0.0.weight": build_bundled,
    "cp.resnet.conv1.weight": build_bisenet,
    "segformer.encoder.layer_norm.0.weight": build_segformer,
}
