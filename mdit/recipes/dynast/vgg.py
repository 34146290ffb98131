"""VGG-19's features for the losses, from the user's file (docs/design/dynast.md, sections 2 and 10)."""
from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor
from torchvision.models.vgg import make_layers

from ...shared.weight_files import join_names, read_weights

CONVS = (2, 2, 4, 4, 2)  # of each block that the losses read
NAMES = tuple(f"conv{block}_{i}" for block, count in enumerate(CONVS, 1) for i in range(1, count + 1))
DEPTHS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2", "conv5_2")  # the ReLUs after them
MEAN_BGR = (0.40760392, 0.45795686, 0.48501961)


def prepare_vgg_input(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) in -1..1 -> BGR in 0..255, less the mean."""
    mean = torch.tensor(MEAN_BGR, device=images.device).view(3, 1, 1)
    return ((images.flip(1) + 1) / 2 - mean) * 255


class VGG(nn.Module):
    """The frozen network, with the widths of the file."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        widths = iter([len(weights[f"{name}.bias"]) for name in NAMES])
        layout = []
        for count in CONVS:
            layout += [*itertools.islice(widths, count), "M"]
        layers = make_layers(layout[:-1])
        convs = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
        indices = dict(zip(NAMES, convs))
        for name, i in indices.items():
            layers[i].load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
        ends = [indices[name] + 2 for name in DEPTHS]  # after the ReLU
        self.parts = nn.ModuleList(layers[start:end] for start, end in itertools.pairwise([0, *ends]))
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path) -> VGG:
        """Reads a file with keys conv1_1.weight ... conv5_4.bias.

        Raises FileNotFoundError, or ValueError that names missing keys.
        """
        if not path.is_file():
            raise FileNotFoundError(f"vgg: no file at {path}: name vgg19_conv.pth, or leave vgg out to train without")
        weights, _ = read_weights(str(path), "vgg")
        if missing := [f"{name}.{part}" for name in NAMES for part in ("weight", "bias")
                       if f"{name}.{part}" not in weights]:
            raise ValueError(f"vgg: {path} lacks {join_names(missing)}: it must hold VGG-19 as conv1_1.weight ...")
        return cls(weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features at the five depths of images (B, 3, H, W) in -1..1."""
        x = prepare_vgg_input(images)
        features = []
        for part in self.parts:
            x = part(x)
            features.append(x)
        return features
