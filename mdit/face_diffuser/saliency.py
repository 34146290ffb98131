"""Saliency-adaptive noise fusion: which of two models is right, cell by cell (spec sections 6 and 10)."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.sampler_helpers

KERNEL = 4  # cells, of the published code


def response(change: Tensor, scale: float, sigma: Tensor) -> Tensor:
    """What a condition changes in the predicted noise (flow models: velocity), guidance scale included.

    change: of the predicted clean latent, (B, C, H, W); sigma: (B,). The division by it turns latent into noise:
    without it the softmax over the cells would have another temperature.
    """
    return scale * change.float() / sigma.reshape(-1, 1, 1, 1)


def smooth(response: Tensor, kernel: int = KERNEL) -> Tensor:
    """|response| under a box of `kernel` cells, with zeros around that count; even kernels lose a row and a column,
    which a resize brings back: (B, C, H, W) -> (B, C, H, W)."""
    pooled = F.avg_pool2d(response.abs(), kernel, stride=1, padding=(kernel - 1) // 2)
    return F.interpolate(pooled, size=response.shape[-2:], mode="bilinear")


def log_saliency(response: Tensor, kernel: int = KERNEL) -> Tensor:
    """Logarithm of the softmax over a sample's cells: (B, C, H, W) -> (B, 1, H, W), in float32 without underflow."""
    omega = smooth(response, kernel).mean(dim=1, keepdim=True)  # (B, 1, H, W)
    return omega - omega.logsumexp(dim=(-2, -1), keepdim=True)


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known before the contest: `region` (B, h, w) in 0..1 where the subject may win at all, its edges faded
    over `feather` cells to each side, and a `bias` on the subject's log saliency. The default is the paper's: none."""
    region: Tensor | None = None
    feather: int = 0
    bias: float = 0.0

    def log(self, shape: torch.Size, device: torch.device) -> Tensor | float:
        """What is added to the subject's log saliency for latents of a shape (B, C, H, W): (B, 1, H, W) or a number."""
        if self.region is None:
            return self.bias
        size = (shape[0], 1, *shape[-2:])
        allowed = comfy.sampler_helpers.prepare_mask(self.region.float(), size, device)  # (B, 1, H, W)
        allowed = F.avg_pool2d(allowed, 2 * self.feather + 1, 1, self.feather, count_include_pad=False)
        return allowed.clamp(0, 1).log() + self.bias
