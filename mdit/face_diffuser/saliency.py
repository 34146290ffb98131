"""Saliency-adaptive noise fusion, which decides cell by cell between two models.

docs/design/face-diffuser.md, sections 6 and 10.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.sampler_helpers

KERNEL = 4  # cells, as in the published code


def compute_response(change: Tensor, scale: float, sigma: Tensor) -> Tensor:
    """What a condition changes in the predicted noise (for flow models: velocity), guidance scale included.

    change: of the predicted clean latent, (B, C, h, w); sigma: (B,). The division by sigma turns the latent's change
    into the noise's. Without it the softmax over the cells would have another temperature.
    """
    return scale * change.float() / sigma.reshape(-1, 1, 1, 1)


def smooth_response(response: Tensor, kernel: int = KERNEL) -> Tensor:
    """|response| under a box filter of `kernel` cells: (B, C, h, w) -> (B, C, h, w).

    The zero padding counts in the mean. Even kernels lose a row and a column, and a resize restores them.
    """
    pooled = F.avg_pool2d(response.abs(), kernel, stride=1, padding=(kernel - 1) // 2)
    return F.interpolate(pooled, size=response.shape[-2:], mode="bilinear")


def compute_log_saliency(response: Tensor, kernel: int = KERNEL) -> Tensor:
    """Logarithm of the softmax over a sample's cells: (B, C, h, w) -> (B, 1, h, w), in float32 without underflow."""
    omega = smooth_response(response, kernel).mean(dim=1, keepdim=True)  # (B, 1, h, w)
    return omega - omega.logsumexp(dim=(-2, -1), keepdim=True)


@dataclass(frozen=True, eq=False)
class Prior:
    """What is set before the comparison. The default is the paper's: nothing.

    region: (B, H, W) in 0..1 where the subject may win; None for everywhere.
    feather: cells over which the region's edge fades on each side.
    bias: added to the subject's log saliency.
    """
    region: Tensor | None = None
    feather: int = 0
    bias: float = 0.0

    def compute_log_weight(self, shape: torch.Size, device: torch.device) -> Tensor | float:
        """What is added to the subject's log saliency for latents (B, C, h, w): (B, 1, h, w) or a number."""
        if self.region is None:
            return self.bias
        size = (shape[0], 1, *shape[-2:])
        allowed = comfy.sampler_helpers.prepare_mask(self.region.float(), size, device)  # (B, 1, h, w)
        allowed = F.avg_pool2d(allowed, 2 * self.feather + 1, 1, self.feather, count_include_pad=False)
        return allowed.clamp(0, 1).log() + self.bias
