"""Layers of DynaST (docs/design/dynast.md, section 6.1). `nc`: channels of the label that modulates a layer."""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops

POSITIONAL_EPSILON = 1e-8
INSTANCE_EPSILON = 1e-5


def make_conv3(n_in: int, n_out: int, operations, stride: int = 1) -> nn.Module:
    return operations.Conv2d(n_in, n_out, 3, stride, padding=1, padding_mode="reflect")


def normalize_positions(x: Tensor) -> Tensor:
    """Normalizes each position of (B, C, H, W) over its channels, with the unbiased variance."""
    c = x.shape[1]
    unbiased = (c - 1) / c
    return unbiased ** 0.5 * F.layer_norm(x.movedim(1, -1), (c,), eps=POSITIONAL_EPSILON * unbiased).movedim(-1, 1)


class InstanceNorm(nn.Module):
    """nn.InstanceNorm2d that keeps channels_last. F.group_norm keeps it, too, but is inexact in that layout."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        return (x - mean) * (variance + INSTANCE_EPSILON).rsqrt()


class SPADE(nn.Module):
    """Spatially-adaptive normalization (Park et al., arXiv 1903.07291) by a label of any size."""

    def __init__(self, c: int, nc: int, operations):
        super().__init__()
        self.mlp_shared = nn.Sequential(make_conv3(nc, c, operations), nn.ReLU())
        self.mlp_gamma = make_conv3(c, c, operations)
        self.mlp_beta = make_conv3(c, c, operations)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        if label.shape[-2:] != x.shape[-2:]:
            label = F.interpolate(label, x.shape[-2:], mode="nearest")
        h = self.mlp_shared(label)  # (B, C, H, W)
        return (1 + self.mlp_gamma(h)) * normalize_positions(x) + self.mlp_beta(h)


class PReLU(nn.PReLU):
    """Its weight may lie elsewhere than its input: the host has no such layer to move."""

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, comfy.ops.cast_to_input(self.weight, x))


class ResBlock(nn.Module):
    """Both activations are the same PReLU, which the published files hold under two names."""

    def __init__(self, c: int, operations):
        super().__init__()
        self.relu = PReLU()
        self.model = nn.Sequential(make_conv3(c, c, operations), operations.BatchNorm2d(c), self.relu,
                                   make_conv3(c, c, operations), operations.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.model(x))


class SPADEResBlock(nn.Module):
    """A residual block with norms modulated by a label. conv_0 and conv_1 were trained under spectral norm."""

    def __init__(self, c: int, nc: int, operations):
        super().__init__()
        self.conv_0 = make_conv3(c, c, operations)
        self.conv_1 = make_conv3(c, c, operations)
        self.norm_0 = SPADE(c, nc, operations)
        self.norm_1 = SPADE(c, nc, operations)
        self.relu = PReLU()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = self.conv_0(self.relu(self.norm_0(x, label)))
        y = self.conv_1(self.relu(self.norm_1(y, label)))
        return self.relu(x + y)


class Encoder(nn.Module):
    """(B, n_in, S, S) -> features of levels 1 to 4, (B, c_L, S / 2^(L-1), S / 2^(L-1)) each."""

    def __init__(self, n_in: int, widths: list[int], operations):
        super().__init__()
        for i, width in enumerate(widths):
            stride = 1 if i == 0 else 2
            conv = make_conv3(n_in, width, operations, stride)
            layer = nn.Sequential(conv, InstanceNorm(), ResBlock(width, operations))
            self.add_module(f"layer{i + 1}", layer)
            n_in = width

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.children():
            x = layer(x)
            features.append(x)
        return features


def make_upsampler(n_in: int, n_out: int, operations, activation: nn.Module) -> nn.Sequential:
    """(B, n_in, H, W) -> (B, n_out, 2H, 2W)."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                         make_conv3(n_in, n_out, operations), activation)
