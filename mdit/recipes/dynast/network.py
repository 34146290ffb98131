"""Generator and discriminator in training, and the generator's file (docs/design/dynast.md, sections 7 and 10)."""
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

GAIN = 0.02
NORM_DEVIATION = 0.02
PUBLISHED_SIZE = 256
RELU4_2 = 3  # its index among VGG's depths


class LossWeights(Section):
    """Weights of the terms, by default the published ones.

    pixel: of the mean absolute difference to the true image, which can replace `reconstruction` without VGG.
    """
    warp: Weight = 1000.0
    adversarial: Weight = 10.0
    features: Weight = 10.0
    reconstruction: Weight = 10.0
    perceptual: Weight = 0.001
    pixel: Weight = 0.0


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Xavier normal convolutions of a small gain, zero biases, norms about 1, normal positions."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(getattr(layer, "weight_orig", layer.weight), GAIN)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, NORM_DEVIATION)


def make_new_generator(config: DynaSTConfig) -> DynaST:
    """An untrained generator with spectral norm on the layers of the published file that have it."""
    generator = DynaST(config, operations=nn)
    for name, layer in generator.named_modules():
        if SPECTRAL.fullmatch(name):
            spectral_norm(layer)
    initialize(generator)
    nn.init.normal_(generator.pos_embed)
    widen_distances(generator)
    return generator


@torch.no_grad()
def widen_distances(generator: DynaST) -> None:
    """Scales the weights that read a label's distances, which are in pixels.

    In images smaller than the published size the distances are smaller. With larger weights the parts of a face can
    be distinguished from the beginning.
    """
    for name, layer in generator.named_modules():
        if name.endswith((".layer1.0", ".mlp_shared.0")):
            distances = slice(1 - generator.config.nc, -1)  # the label comes last; its first and last channel are edges
            getattr(layer, "weight_orig", layer.weight)[:, distances] *= PUBLISHED_SIZE / generator.config.size


class Adversaries(nn.Module):
    """Generator and discriminator with their losses. vgg: None leaves out the terms that need VGG."""

    def __init__(self, config: DynaSTConfig, width: int, vgg: VGG | None, weights: LossWeights):
        super().__init__()
        self.generator = make_new_generator(config)
        self.discriminator = Discriminator(config.nc, width)
        self.vgg = vgg
        self.weights = weights
        initialize(self.discriminator)

    def forward(self, image: Tensor, seg: Tensor, ref_image: Tensor, ref_seg: Tensor, known: Tensor,
                rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of both losses.

        One step back through their sum equals two steps in turn: both networks judge by the same weights, and neither
        gradient reaches the other network.

        image, ref_image: (B, 3, S, S), seg, ref_seg: (B, nc, S, S), uint8. known: (B,), 1 if `image` shows the
        exemplar's appearance in this layout, else 0.
        """
        real = normalize(image)
        seg = seg / 255
        output = self.generator(seg, normalize(ref_image), ref_seg / 255, warp_all=True)
        self.discriminator.requires_grad_(False)
        terms = self.compute_generator_terms(output.image, output.warped, real, seg, known)
        self.discriminator.requires_grad_(True)
        fake_outputs, real_outputs = self.judge(output.image.detach(), real, seg)
        on_fake, on_real = losses.discriminator_losses(fake_outputs, real_outputs)
        weight = self.weights.adversarial
        return terms | {"discriminator_fake": weight * on_fake, "discriminator_real": weight * on_real}

    def judge(self, fake: Tensor, real: Tensor, seg: Tensor) -> tuple[losses.Outputs, losses.Outputs]:
        """The discriminator's outputs on generated and on true images."""
        return losses.split_batch(self.discriminator(torch.cat([seg, seg]), torch.cat([fake, real])))

    def compute_generator_terms(self, fake: Tensor, warped: list[Tensor], real: Tensor, seg: Tensor, known: Tensor
                        ) -> dict[str, Tensor]:
        weights = self.weights
        weight = losses.sample_weights(known)  # (B, 1, 1, 1)
        on_fake, on_real = self.judge(fake, real, seg)
        terms = {"warp": weights.warp * losses.warp_loss(warped, real, weight),
                 "adversarial": weights.adversarial * losses.adversarial_loss(on_fake),
                 "features": weights.features * losses.feature_loss(on_fake, on_real)}
        if weights.pixel:
            terms["pixel"] = weights.pixel * losses.weighted_l1(fake, real, weight)
        if self.vgg:
            of_fake = self.vgg(fake)
            of_real = self.vgg(real)
            terms["reconstruction"] = weights.reconstruction * losses.reconstruction_loss(of_fake, of_real, weight)
            terms["perceptual"] = weights.perceptual * F.mse_loss(of_fake[RELU4_2], of_real[RELU4_2])
        return terms

    @torch.no_grad()
    def synthesize(self, seg: Tensor, ref_image: Tensor, ref_seg: Tensor) -> tuple[Tensor, Tensor]:
        """Images and warped exemplars (B, S, S, 3) uint8, by the statistics of training.

        seg, ref_seg: (B, nc, S, S); ref_image: (B, 3, S, S), all uint8.
        """
        device = self.generator.pos_embed.device
        self.generator.eval()
        output = self.generator(seg.to(device) / 255, normalize(ref_image.to(device)), ref_seg.to(device) / 255)
        self.generator.train()
        return to_bytes(output.image), to_bytes(output.warped[-1])


def to_bytes(images: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> (B, H, W, 3) uint8."""
    return ((images.cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def save_generator(path: Path, weights: dict[str, Tensor]) -> None:
    """Writes the generator's state dict under the published names. The file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    # The published batch norms hold no count, and the file format has no two names for one memory.
    save_file({name: torch.zeros_like(w) if name.endswith("num_batches_tracked") else w.clone().contiguous()
               for name, w in weights.items()}, part)
    part.replace(path)
