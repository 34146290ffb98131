"""Flow matching: noise at a random level, the loss of a predicted velocity, and Euler steps along it."""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from comfy.model_sampling import time_snr_shift

Velocity = Callable[[Tensor, Tensor], Tensor]  # of noisy latents (B, C, h, w) and their noise levels (B,)


def compute_flow_loss(velocity: Velocity, clean: Tensor, shift: float, rng: torch.Generator) -> Tensor:
    """Mean squared error of the velocity, which is noise - clean.

    clean: (B, C, h, w). The noise levels are sigmoids of normal numbers, moved by `shift` as SD3's sampling moves
    them. `rng` is on the device of `clean`.
    """
    level = torch.randn(len(clean), generator=rng, device=clean.device)
    sigma = time_snr_shift(shift, torch.sigmoid(level))
    noise = torch.randn(clean.shape, generator=rng, device=clean.device)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))
    return F.mse_loss(velocity(noisy, sigma).float(), noise - clean)


def follow_flow(velocity: Velocity, like: Tensor, sigmas: Tensor, seed: int) -> Tensor:
    """Latents of the shape of `like` by Euler steps over sigmas (steps + 1,)."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.device)
    return integrate(velocity, noise, sigmas)


def integrate(velocity: Velocity, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler steps over sigmas (steps + 1,) from latents of the first level's noise, (B, C, h, w)."""
    for sigma, after in zip(sigmas, sigmas[1:]):
        step = (after - sigma).to(x)
        x = x + step * velocity(x, sigma.to(x).expand(len(x))).float()
    return x
