"""The losses of generator and discriminator (docs/design/dynast.md, section 10)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # of relu1_2 ... relu5_2 in the reconstruction

Outputs = list[list[Tensor]]  # of the discriminator: by scale and layer


def sample_weights(known: Tensor) -> Tensor:
    """Weights (B, 1, 1, 1) of the samples. known: (B,), 1 for a sample with a known true image, else 0."""
    return (known / (known.sum() + EPSILON)).view(-1, 1, 1, 1)


def weighted_l1(image: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Mean of the weighted absolute difference over all elements (B, C, H, W), the batch included."""
    return ((image - true).abs() * weight).mean()


def warp_loss(warped: list[Tensor], true: Tensor, weight: Tensor) -> Tensor:
    """Sum of the differences between warped exemplars (B, 3, h, w) and true images (B, 3, H, W) at their size."""
    return sum(weighted_l1(image, F.avg_pool2d(true, true.shape[-1] // image.shape[-1]), weight) for image in warped)


def reconstruction_loss(generated: list[Tensor], true: list[Tensor], weight: Tensor) -> Tensor:
    """Weighted differences of VGG's features at its five depths."""
    return sum(depth * weighted_l1(a, b, weight) for depth, a, b in zip(VGG_WEIGHTS, generated, true))


def adversarial_loss(fake: Outputs) -> Tensor:
    """The generator's hinge loss. fake: the discriminator's outputs on generated images."""
    return -torch.stack([scale[-1].mean() for scale in fake]).mean()


def feature_loss(fake: Outputs, real: Outputs) -> Tensor:
    """Mean over the scales of the differences between all layers but the last."""
    total = 0
    for fake_scale, real_scale in zip(fake, real):
        for a, b in zip(fake_scale[:-1], real_scale[:-1]):
            total = total + F.l1_loss(a, b.detach())
    return total / len(fake)


def discriminator_losses(fake: Outputs, real: Outputs) -> tuple[Tensor, Tensor]:
    """Hinge losses on generated and on true images."""
    return (torch.stack([F.relu(1 + scale[-1]).mean() for scale in fake]).mean(),
            torch.stack([F.relu(1 - scale[-1]).mean() for scale in real]).mean())


def split_batch(outputs: Outputs) -> tuple[Outputs, Outputs]:
    """The discriminator's outputs on generated and on true images, of a batch that holds the generated ones first."""
    fake: Outputs = []
    real: Outputs = []
    for scale in outputs:
        halves = [layer.chunk(2) for layer in scale]
        fake.append([half[0] for half in halves])
        real.append([half[1] for half in halves])
    return fake, real
