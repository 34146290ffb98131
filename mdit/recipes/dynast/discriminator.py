"""The discriminator judges patches of an image with its label at two scales (docs/design/dynast.md, section 10)."""
from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import spectral_norm

SCALES = 2
MAX_WIDTH = 512
SLOPE = 0.2
SMALLEST_IMAGE = 48  # pixels; the coarse scale needs so many


def make_conv4(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 4, stride, padding=1)


class Patches(nn.Module):
    """One scale: `model0` ... `model4`."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [min(width * 2 ** i, MAX_WIDTH) for i in range(4)]
        self.model0 = nn.Sequential(make_conv4(channels, width, 2), nn.LeakyReLU(SLOPE))
        for i, (inputs, outputs) in enumerate(pairwise(widths), 1):
            conv = spectral_norm(make_conv4(inputs, outputs, 1 if i == 3 else 2))
            self.add_module(f"model{i}", nn.Sequential(conv, nn.InstanceNorm2d(outputs), nn.LeakyReLU(SLOPE)))
        self.model4 = nn.Sequential(make_conv4(widths[-1], 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        """The outputs of all layers for x (B, channels, H, W). The last one is the verdict (B, 1, h, w)."""
        outputs = []
        for layer in self.children():
            x = layer(x)
            outputs.append(x)
        return outputs


class Discriminator(nn.Module):
    """Weights have the published names and shapes, without the unused branch `dec`.

    labels: channels of the label; width: of the first layer.
    """

    def __init__(self, labels: int, width: int):
        super().__init__()
        for scale in range(SCALES):
            self.add_module(f"discriminator_{scale}", Patches(labels + 3, width))

    def forward(self, seg: Tensor, image: Tensor) -> list[list[Tensor]]:
        """The layers' outputs at each scale, for seg (B, nc, S, S) in 0..1 and image (B, 3, S, S) in -1..1."""
        x = torch.cat([seg, image], 1)  # (B, nc + 3, S, S)
        outputs = []
        for scale in self.children():
            outputs.append(scale(x))
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return outputs
