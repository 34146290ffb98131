"""The bundled model's autoencoder, trained on crops of renders (docs/design/bundled-model.md, section 6)."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from ...datasets.augment import mirror, normalize
from ...datasets.mapped import MappedRenders
from ...labelmap import CLASSES
from ...mditface.autoencoder import Autoencoder, AutoencoderConfig
from ...mditface.latents import LatentStatistics
from ...parsing import WEIGHTS as PARSER_WEIGHTS
from ...parsing import load_parser
from ...training.data import make_step_rng
from ...training.optimizers import make_optimizers
from ...training.settings import Fraction, Settings, Weight
from ...training.targets.base import Batches, Target

PREFIX = "autoencoder."
FILE_PREFIX = "vae."  # of the weights in a stand-alone MDiT file
EYES = [CLASSES.index(name) for name in ("l_eye", "r_eye")]
FEATURES = [CLASSES.index(name) for name in ("l_brow", "r_brow", "nose", "u_lip", "l_lip", "mouth")]
CLASS_WEIGHTS = {"l_eye": 4, "r_eye": 4, "u_lip": 2.5, "l_lip": 2.5, "mouth": 2.5, "l_brow": 2, "r_brow": 2,
                 "nose": 1.5, "eye_g": 1.5, "ear_r": 1.5, "cloth": 0.8, "background": 0.7}
LAPLACIAN = (2.0, 1.5, 1.0)  # weight of each level
KERNEL = torch.tensor([1, 4, 6, 4, 1]) / 16
DOWN_BLOCKS = 3  # of the judge whose features are compared
SHEET_COUNT = 6
METRIC_COUNT = 16
STATISTICS_COUNT = 64


class CropSettings(Settings):
    """Settings of a run on crops.

    crop: side of the training crops in pixels.
    eyes, features: fractions of the crops around a pixel of the eyes, and of brows, nose or mouth.
    perceptual: weight of the judge's features.
    """
    heldout: Path
    crop: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    eyes: Fraction = 0.33
    features: Fraction = 0.2
    perceptual: Weight = 0.25

    def place_crop(self, labels: np.ndarray, side: int, draws: np.random.Generator) -> tuple[int, int]:
        """Top and left of a crop of a label map (S, S): around a pixel of a chosen class, or anywhere."""
        room = labels.shape[0] - side
        kind = draws.random()
        chosen = EYES if kind < self.eyes else FEATURES if kind < self.eyes + self.features else []
        table = np.zeros(256, bool)
        table[chosen] = True
        pixels = np.flatnonzero(table[labels])
        if not len(pixels):
            return tuple(draws.integers(0, room + 1, 2))
        middle = divmod(int(pixels[draws.integers(len(pixels))]), labels.shape[1])
        shift = draws.integers(-side // 3, side // 3 + 1, 2)
        return tuple(np.clip(np.array(middle) - side // 2 + shift, 0, room))


class AutoencoderSettings(CropSettings):
    """Settings of a run. In its last fifth the crops are twice as large, and a batch has a quarter of them: the borders
    of small crops are padding that no whole image has.

    noise: largest deviation of the noise on the latents. It makes the decoder bear what a generator does not hit.
    penalty: weight of the latents' squares and of the squares of their channels' means.
    """
    noise: Weight = 0.3
    penalty: Weight = 1e-3


def weigh_classes(labels: Tensor) -> Tensor:
    """(B, 1, S, S), 1 in the mean over the batch."""
    table = torch.ones(256, device=labels.device)
    for name, weight in CLASS_WEIGHTS.items():
        table[CLASSES.index(name)] = weight
    weights = table[labels.long()][:, None]
    return weights / weights.mean()


def blur(x: Tensor) -> Tensor:
    """Binomial 5 x 5."""
    kernel = KERNEL.to(x).expand(x.shape[1], 1, 1, 5)
    x = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def measure_laplacian(difference: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean size of three levels of the Laplacian pyramid of a difference (B, 3, S, S)."""
    total = difference.new_zeros(())
    for level in LAPLACIAN:
        low = blur(difference)
        total = total + level * (weights * (difference - low).abs()).mean()
        difference = low[..., ::2, ::2]
        weights = F.avg_pool2d(weights, 2)
    return total


class Perception(nn.Module):
    """How far two images are from each other in the features of a face parser, at three sizes."""

    def __init__(self):
        super().__init__()
        self.blocks = load_parser().down[:DOWN_BLOCKS]
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Perception:
        return super().train(False)  # the parser's statistics stay those of its own training

    def yield_features(self, images: Tensor):
        """What each block makes before its last ReLU."""
        x = F.pixel_unshuffle(images, 2)
        for number, block in enumerate(self.blocks):
            x = block[:-1](x if number == 0 else F.max_pool2d(x, 2))
            yield x
            x = F.relu(x)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Mean over nine maps, each channel in units of its deviation on the true image."""
        distances = []
        for size in (1, 2, 4):
            pairs = zip(*(self.yield_features(F.avg_pool2d(x, size)) for x in (made, true)))
            for a, b in pairs:
                deviation = b.float().std(dim=(0, 2, 3), keepdim=True) + 0.1
                distances.append(((a - b).float().abs() / deviation).mean())
        return torch.stack(distances).mean()


def compare_images(made: Tensor, true: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Terms of the loss of images (B, 3, S, S), weighted by the classes of labels (B, S, S)."""
    weights = weigh_classes(labels)
    difference = made - true
    return {"pixels": (weights * (difference.abs() + difference.square())).mean(),
            "laplacian": measure_laplacian(difference, weights)}


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, images: np.ndarray) -> np.ndarray:
    """Images (B, S, S, 3) uint8 after encoding and decoding."""
    device = next(autoencoder.parameters()).device
    made = []
    for image in images:
        pixels = normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(device))
        made.append(autoencoder.decode(autoencoder.encode(pixels)).float().cpu())
    made = torch.cat(made).clamp(-1, 1)
    return ((made + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def measure_psnr(made: np.ndarray, true: np.ndarray) -> float:
    """Mean decibels of images (B, S, S, 3) uint8."""
    error = np.square(made.astype(np.float32) - true).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255 ** 2 / error)))


def stack_images(*rows: np.ndarray) -> np.ndarray:
    """One image of rows of images (B, S, S, 3)."""
    return np.concatenate([np.concatenate(list(images), axis=1) for images in rows])


class AutoencoderLoss(nn.Module):
    """The autoencoder with its loss."""

    def __init__(self, config: AutoencoderConfig, settings: AutoencoderSettings):
        super().__init__()
        self.settings = settings
        self.autoencoder = Autoencoder(config).to(memory_format=torch.channels_last)
        self.autoencoder.initialize()
        self.perception = Perception() if settings.perceptual else None

    def forward(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss for crops (B, 3, S, S) and their labels (B, S, S), uint8."""
        settings = self.settings
        true = normalize(images).contiguous(memory_format=torch.channels_last)
        latents = self.autoencoder.encode(true).float()
        random = dict(generator=rng, device=images.device)
        strength = settings.noise * torch.rand(len(images), 1, 1, 1, **random)
        made = self.autoencoder.decode(latents + strength * torch.randn(latents.shape, **random)).float()
        means = latents.mean(dim=(0, 2, 3))
        terms = compare_images(made, true, labels)
        terms["penalty"] = settings.penalty * (latents.square().mean() + means.square().mean())
        if self.perception is not None:
            terms["perceptual"] = settings.perceptual * self.perception(made, true)
        return terms


class AutoencoderTarget(Target):
    """See base.Target."""

    def __init__(self, settings: AutoencoderSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.faces = MappedRenders(settings.data)
        self.heldout = MappedRenders(settings.heldout)
        self.module = AutoencoderLoss(AutoencoderConfig(), settings)
        self.batches = Batches([0] * len(self.faces), settings.batch, settings.seed)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        weights = [w for w in self.module.parameters() if w.requires_grad]
        return make_optimizers(self.settings.optimiser, [], [{"params": weights}])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings = self.settings
        index = self.batches(step, process, processes)
        draws = make_step_rng(settings.seed, step, process)
        side = settings.crop
        if step >= 0.8 * settings.steps and self.faces.labels.shape[1] >= 2 * side:
            side *= 2
            index = index[:max(1, len(index) // 4)]
        crops = []
        for i in index.tolist():
            top, left = settings.place_crop(self.faces.labels[i], side, draws)
            crops.append(self.faces.crop(i, top, left, side))
        images, labels = (torch.stack(parts) for parts in zip(*crops))
        chosen = torch.from_numpy(draws.random(len(index)) < 0.5)
        images, labels = mirror(images, labels, chosen)
        return {"images": images, "labels": labels}

    def draw_sheet(self) -> np.ndarray:
        """Held-out images above what the autoencoder makes of them."""
        true = self.heldout.images[:SHEET_COUNT]
        return stack_images(true, reconstruct(self.module.autoencoder, true))

    def measure(self) -> dict[str, float]:
        """Decibels of held-out images, and how well the judge finds their classes before and after."""
        true = self.heldout.images[:METRIC_COUNT]
        made = reconstruct(self.module.autoencoder, true)
        found = {"psnr": measure_psnr(made, true)}
        if PARSER_WEIGHTS.is_file():
            parser = load_parser()
            for name, images in (("made", made), ("true", true)):
                scores = [parser.measure_agreement(np.array(image), np.array(label))["mean_iou"]
                          for image, label in zip(images, self.heldout.labels)]
                found[f"mean_iou/{name}"] = float(np.mean(scores))
        return found

    @torch.no_grad()
    def describe_latents(self) -> LatentStatistics:
        """Statistics of the first training images; a preview's colours by least squares."""
        coder = self.module.autoencoder
        device = next(coder.parameters()).device
        images = torch.from_numpy(np.array(self.faces.images[:STATISTICS_COUNT])).permute(0, 3, 1, 2)
        latents = torch.cat([coder.encode(normalize(image[None].to(device))).float().cpu() for image in images])
        mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
        standard = ((latents - mean[:, None, None]) / deviation[:, None, None]).movedim(1, -1).flatten(0, -2)
        colors = F.avg_pool2d(normalize(images), coder.config.ratio).movedim(1, -1).flatten(0, -2)
        standard = torch.cat([standard, torch.ones(len(standard), 1)], dim=1)
        factors = torch.linalg.lstsq(standard, colors).solution  # (C + 1, 3)
        return LatentStatistics(mean.tolist(), deviation.tolist(), factors[:-1].tolist(), factors[-1].tolist())

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Weights in half precision as a stand-alone file holds them; sizes and latents' statistics in the header."""
        sd = {FILE_PREFIX + name.removeprefix(PREFIX): w.half().contiguous()
              for name, w in weights.items() if name.startswith(PREFIX)}
        path.parent.mkdir(parents=True, exist_ok=True)
        header = self.module.autoencoder.config.to_metadata() | self.describe_latents().to_metadata()
        save_file(sd, path, header)
