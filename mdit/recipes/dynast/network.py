"""Generator and discriminator as they are trained together, and the generator's file (dynast spec, sections 7 and 10).
"""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import spectral_norm

from ...dynast.config import DynaSTConfig
from ...dynast.model import DynaST
from ...dynast.weights import SPECTRAL
from ...datasets.augment import normalize
from ...training.settings import Section, Weight
from . import losses
from .discriminator import Discriminator
from .vgg import VGG

GAIN, NORM_DEVIATION = 0.02, 0.02
PUBLISHED_SIZE = 256
RELU4_2 = 3  # its place among VGG's depths


class LossWeights(Section):
    """Of the terms; those of the published recipe, and of `pixel`, the mean absolute difference to the true picture,
    which stands in for `reconstruction` where there is no VGG."""
    warp: Weight = 1000.0
    adversarial: Weight = 10.0
    features: Weight = 10.0
    reconstruction: Weight = 10.0
    perceptual: Weight = 0.001
    pixel: Weight = 0.0


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Xavier normal convolutions of a small gain, zero biases, norms about 1, normal positions."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(getattr(layer, "weight_orig", layer.weight), GAIN)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, NORM_DEVIATION)


def new_generator(config: DynaSTConfig) -> DynaST:
    """To be trained: with spectral norm where the published file has it."""
    generator = DynaST(config, operations=nn)
    for name, layer in generator.named_modules():
        if SPECTRAL.fullmatch(name):
            spectral_norm(layer)
    initialise(generator)
    nn.init.normal_(generator.pos_embed)
    widen_distances(generator)
    return generator


@torch.no_grad()
def widen_distances(generator: DynaST) -> None:
    """A label tells distances in pixels: small numbers in pictures smaller than the published size, where weights that
    start larger by as much let the parts of a face be told apart from the beginning."""
    for name, layer in generator.named_modules():
        if name.endswith((".layer1.0", ".mlp_shared.0")):
            distances = slice(1 - generator.config.nc, -1)  # the label comes last; its first and last channel are edges
            getattr(layer, "weight_orig", layer.weight)[:, distances] *= PUBLISHED_SIZE / generator.config.size


class Adversaries(nn.Module):
    """Generator and discriminator, each with its losses. vgg: None leaves out the terms that need it."""

    def __init__(self, config: DynaSTConfig, width: int, vgg: VGG | None, weights: LossWeights):
        super().__init__()
        self.generator, self.discriminator = new_generator(config), Discriminator(config.nc, width)
        self.vgg, self.weights = vgg, weights
        initialise(self.discriminator)

    def forward(self, image: Tensor, seg: Tensor, ref_image: Tensor, ref_seg: Tensor, known: Tensor,
                rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of both losses. One step back through their sum moves generator and discriminator as two steps in
        turn would, since both judge by the same weights and neither's gradient reaches the other.

        image, ref_image: (B, 3, S, S), seg, ref_seg: (B, nc, S, S), uint8. known: (B,), 1 where `image` is how the
        exemplar looks in this layout, else 0.
        """
        real, seg = normalize(image), seg / 255
        made = self.generator(seg, normalize(ref_image), ref_seg / 255, warp_all=True)
        self.discriminator.requires_grad_(False)
        terms = self.generator_terms(made.image, made.warped, real, seg, known)
        self.discriminator.requires_grad_(True)
        on_fake, on_real = losses.discriminator_losses(*self.judged(made.image.detach(), real, seg))
        weight = self.weights.adversarial
        return terms | {"discriminator_fake": weight * on_fake, "discriminator_real": weight * on_real}

    def judged(self, fake: Tensor, real: Tensor, seg: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """The discriminator's outputs on generated and on true pictures."""
        return losses.halves(self.discriminator(torch.cat([seg, seg]), torch.cat([fake, real])))

    def generator_terms(self, fake: Tensor, warped: list[Tensor], real: Tensor, seg: Tensor, known: Tensor
                        ) -> dict[str, Tensor]:
        weights, share = self.weights, losses.shares(known)
        on_fake, on_real = self.judged(fake, real, seg)
        terms = {"warp": weights.warp * losses.warp_loss(warped, real, share),
                 "adversarial": weights.adversarial * losses.adversarial_loss(on_fake),
                 "features": weights.features * losses.feature_loss(on_fake, on_real)}
        if weights.pixel:
            terms["pixel"] = weights.pixel * losses.weighted_l1(fake, real, share)
        if self.vgg:
            of_fake, of_real = self.vgg(fake), self.vgg(real)
            terms["reconstruction"] = weights.reconstruction * losses.reconstruction_loss(of_fake, of_real, share)
            terms["perceptual"] = weights.perceptual * F.mse_loss(of_fake[RELU4_2], of_real[RELU4_2])
        return terms

    @torch.no_grad()
    def synthesise(self, seg: Tensor, ref_image: Tensor, ref_seg: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and warped exemplars (B, S, S, 3) uint8, by the statistics of training.

        seg, ref_seg: (B, nc, S, S); ref_image: (B, 3, S, S), all uint8.
        """
        device = self.generator.pos_embed.device
        self.generator.eval()
        made = self.generator(seg.to(device) / 255, normalize(ref_image.to(device)), ref_seg.to(device) / 255)
        self.generator.train()
        return tuple(((x.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
                     for x in (made.image, made.warped[-1]))


def save_generator(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes the generator's state dict under the published names; the file appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    # The published batch norms never counted, and the file format has no two names for one memory.
    save_file({name: torch.zeros_like(w) if name.endswith("num_batches_tracked") else w.clone().contiguous()
               for name, w in weights.items()}, part)
    part.replace(path)
