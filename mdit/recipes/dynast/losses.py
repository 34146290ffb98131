"""The losses of generator and discriminator (dynast spec, section 10)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5
VGG_SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of relu1_2 ... relu5_2 in the reconstruction


def shares(known: Tensor) -> Tensor:
    """(B, 1, 1, 1) of the samples whose true picture is known (B,); they add up to 1, or are 0."""
    return (known / (known.sum() + EPSILON)).view(-1, 1, 1, 1)


def weighted_l1(made: Tensor, true: Tensor, share: Tensor) -> Tensor:
    """Mean over all elements (B, C, H, W), the batch's as well, of the samples' shares of the absolute difference."""
    return ((made - true).abs() * share).mean()


def warp_loss(warped: list[Tensor], true: Tensor, share: Tensor) -> Tensor:
    """Sum over warped exemplars (B, 3, h, w) of their differences to true (B, 3, H, W), averaged down to them."""
    return sum(weighted_l1(image, F.avg_pool2d(true, true.shape[-1] // image.shape[-1]), share) for image in warped)


def reconstruction_loss(made: list[Tensor], true: list[Tensor], share: Tensor) -> Tensor:
    """Weighted differences of VGG's features at its five depths."""
    return sum(depth * weighted_l1(a, b, share) for depth, a, b in zip(VGG_SHARES, made, true))


def adversarial_loss(fake: list[list[Tensor]]) -> Tensor:
    """What the generator loses to the discriminator's outputs on its pictures: hinge."""
    return -torch.stack([scale[-1].mean() for scale in fake]).mean()


def feature_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Mean over the scales of the differences between all layers but the last."""
    return sum(F.l1_loss(a, b.detach()) for made, true in zip(fake, real)
               for a, b in zip(made[:-1], true[:-1])) / len(fake)


def discriminator_losses(fake: list[list[Tensor]], real: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Hinge on generated and on true pictures."""
    return (torch.stack([F.relu(1 + scale[-1]).mean() for scale in fake]).mean(),
            torch.stack([F.relu(1 - scale[-1]).mean() for scale in real]).mean())


def halves(outputs: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The discriminator's outputs on a batch of generated pictures and, after them, of as many true ones."""
    pairs = [[layer.chunk(2) for layer in scale] for scale in outputs]
    return [[fake for fake, _ in scale] for scale in pairs], [[real for _, real in scale] for scale in pairs]
