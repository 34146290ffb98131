"""Distances between sets of features and between images' structures (docs/design/mditface.md, section 9)."""
from __future__ import annotations

import warnings

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

SUBSETS = 100
SUBSET_SIZE = 1000
SIGMA = 10.0  # of the Gaussian kernel


class GivenFeatures(nn.Module):
    """Takes the place of the network in torchmetrics: the features are computed already."""

    def __init__(self, width: int):
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Frechet distance of the Gaussians with the features' means and covariances.

    real: (N, d); generated: (M, d). Raises ValueError for fewer than two of either.
    """
    require_pairs(real, generated)
    metric = FrechetInceptionDistance(GivenFeatures(real.shape[1]))
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    return metric.compute().item()


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Unbiased MMD^2 x 1000 with the kernel (x.y / d + 1)^3, the mean over 100 random subsets of up to 1000.

    real: (N, d); generated: (M, d). The subsets are the same on every call. Raises ValueError for fewer than two.
    """
    require_pairs(real, generated)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about memory; the features are in memory anyway
        metric = KernelInceptionDistance(GivenFeatures(real.shape[1]), subsets=SUBSETS,
                                         subset_size=min(SUBSET_SIZE, len(real), len(generated)))
    metric.update(real.double(), real=True)
    metric.update(generated.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return 1000 * metric.compute()[0].item()


def gaussian_mmd(real: Tensor, generated: Tensor) -> float:
    """Biased MMD^2 x 1000, all pairs and the diagonal included, with a Gaussian kernel of sigma 10: CMMD.

    real: (N, d); generated: (M, d), both of unit length.
    """
    real = real.double()
    generated = generated.double()

    def compute_kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * SIGMA ** 2))

    within = compute_kernel(real, real).mean() + compute_kernel(generated, generated).mean()
    across = compute_kernel(real, generated).mean()
    return 1000 * (within - 2 * across).item()


def self_similarity(keys: Tensor) -> Tensor:
    """Cosines (B, T, T) between the tokens of keys (B, T, d)."""
    unit = F.normalize(keys, dim=-1)
    return unit @ unit.transpose(1, 2)


def structure_distance(real: Tensor, generated: Tensor) -> Tensor:
    """Mean squared difference of the self-similarities of keys (B, T, d) -> (B,), one an image."""
    return (self_similarity(real) - self_similarity(generated)).square().mean((1, 2))


def require_pairs(*features: Tensor) -> None:
    if min(map(len, features)) < 2:
        raise ValueError("the distance of two sets needs at least two images in each: raise the count")
