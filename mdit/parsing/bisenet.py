"""BiSeNet with a ResNet-18 (Yu et al., arXiv 1808.00897), in the layout of the published face-parsing weights.

The module names are those of the checkpoint `79999_iter.pth` of face-parsing.PyTorch. Its spatial path is the second
stage of the ResNet. Its two auxiliary heads serve training alone; the network has them because the file has them.
"""
from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import resnet18

from ..labelmap import CLASSES


class ConvBNReLU(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int = 3, operations=nn):
        super().__init__()
        self.conv = operations.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """Weights the channels by the mean over the whole image (Yu et al., section 3.2)."""

    def __init__(self, n_in: int, n_out: int, operations=nn):
        super().__init__()
        self.conv = ConvBNReLU(n_in, n_out, operations=operations)
        self.conv_atten = operations.Conv2d(n_out, n_out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()


class ContextPath(nn.Module):
    """(B, 3, H, W) -> the ResNet's features and the context, both (B, 128, H/8, W/8)."""

    def __init__(self, operations=nn):
        super().__init__()
        self.resnet = resnet18()
        del self.resnet.avgpool, self.resnet.fc
        self.arm16 = AttentionRefinement(256, 128, operations)
        self.arm32 = AttentionRefinement(512, 128, operations)
        self.conv_head32 = ConvBNReLU(128, 128, operations=operations)
        self.conv_head16 = ConvBNReLU(128, 128, operations=operations)
        self.conv_avg = ConvBNReLU(512, 128, 1, operations)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        net = self.resnet
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))  # (B, 64, H/4, W/4)
        x8 = net.layer2(net.layer1(x))  # (B, 128, H/8, W/8)
        x16 = net.layer3(x8)  # (B, 256, H/16, W/16)
        x32 = net.layer4(x16)  # (B, 512, H/32, W/32)
        context = self.arm32(x32) + self.conv_avg(x32.mean((2, 3), keepdim=True))
        context = self.arm16(x16) + self.conv_head32(F.interpolate(context, x16.shape[-2:]))  # (B, 128, H/16, W/16)
        return x8, self.conv_head16(F.interpolate(context, x8.shape[-2:]))


class FeatureFusion(nn.Module):
    def __init__(self, n_in: int, n_out: int, operations=nn):
        super().__init__()
        self.convblk = ConvBNReLU(n_in, n_out, 1, operations)
        self.conv1 = operations.Conv2d(n_out, n_out // 4, 1, bias=False)
        self.conv2 = operations.Conv2d(n_out // 4, n_out, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        return x + x * self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))).sigmoid()


class Head(nn.Module):
    def __init__(self, n_in: int, n_hidden: int, operations=nn):
        super().__init__()
        self.conv = ConvBNReLU(n_in, n_hidden, operations=operations)
        self.conv_out = operations.Conv2d(n_hidden, len(CLASSES), 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Images (B, 3, H, W), normalized as for ImageNet -> logits (B, 19, H, W) in the face parsers' class order."""

    def __init__(self, operations=nn):
        super().__init__()
        self.cp = ContextPath(operations)
        self.ffm = FeatureFusion(256, 256, operations)
        self.conv_out = Head(256, 256, operations)
        self.conv_out16 = Head(128, 64, operations)
        self.conv_out32 = Head(128, 64, operations)

    def forward(self, x: Tensor) -> Tensor:
        spatial, context = self.cp(x)
        logits = self.conv_out(self.ffm(spatial, context))  # (B, 19, H/8, W/8)
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=True)
