"""How generated images look beside true renders (docs/design/bundled-model.md, section 3.9)."""
from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mditface.mdit.datasets import Renders
from mditface.mdit.evaluation.generate import Generator
from mditface.mdit.evaluation.metrics.distances import frechet_distance, kernel_distance
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.parsing import FaceParser
from mditface.mdit.recipes.targets.autoencoder import measure_psnr
from mditface.mdit.render.scene import make_sample

GRAINY = [CLASSES.index(name) for name in ("hair", "skin")]
SEEDS = 4   # images of one label map and caption
MAPS = 8    # label maps that are drawn so often
FIRST = 4096  # number of their first image: others than those of the held-out renders


def measure_gradient(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean gradient of hair and skin in images (N, S, S, 3) uint8, in levels a pixel. labels: (N, S, S)."""
    sizes = []
    for image, label in zip(images, labels):
        down, right = np.gradient(image.astype(np.float32).mean(-1))
        sizes.append(np.hypot(down, right)[np.isin(label, GRAINY)])
    return float(np.concatenate(sizes).mean())


def measure_distances(made: np.ndarray, true: np.ndarray, parser: FaceParser) -> dict[str, float]:
    """KID and FID between images (N, H, W, 3) uint8 of any sizes, on the parser's features.

    Each feature is in units of its deviation on the true images.
    """
    of_made, of_true = (torch.stack([parser.describe(image) for image in images]) for images in (made, true))
    mean = of_true.mean(0)
    deviation = of_true.std(0) + 1e-3
    standard = [(features - mean) / deviation for features in (of_true, of_made)]
    return {"kid": kernel_distance(*standard), "fid": frechet_distance(*standard)}


def enlarge(images: np.ndarray, side: int) -> np.ndarray:
    """Images (N, S, S, 3) uint8 -> (N, side, side, 3), bicubic."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    larger = F.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 255)
    return larger.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def measure_difference(images: np.ndarray) -> float:
    """Mean pixel distance between any two of the images (N, S, S, 3) uint8 of one label map."""
    pairs = combinations(images.astype(np.float32), 2)
    return float(np.mean([np.abs(a - b).mean() for a, b in pairs]))


def measure_seed_difference(generator: Generator, heldout: Renders, captions: list[str], seed: int) -> float:
    """How far apart images of one label map and caption are, as a fraction of how far apart true renders are.

    The renders of one map differ in light, background and details. heldout: the first samples of the set `seed`.
    """
    made = []
    true = []
    for i in range(min(MAPS, len(heldout))):
        numbers = range(FIRST + SEEDS * i, FIRST + SEEDS * (i + 1))
        made.append(measure_difference(generator(heldout.labels[i:i + 1].repeat(SEEDS, 1, 1), captions[i:i + 1] * SEEDS,
                                                 numbers).numpy()))
        others = [make_sample(seed, i, generator.size, look=look).image for look in range(1, SEEDS)]
        true.append(measure_difference(np.stack([heldout.images[i].numpy(), *others])))
    return float(np.mean(made) / np.mean(true))


def reconstruct(vae: Any, images: Tensor) -> np.ndarray:
    """Images (N, S, S, 3) uint8 after the host's VAE has encoded and decoded each."""
    made = [vae.decode(vae.encode(image[None] / 255))[0] for image in images]
    return (torch.stack(made) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def measure_reconstruction(vae: Any, heldout: Renders, parser: FaceParser) -> dict[str, float]:
    """Decibels of the VAE on held-out renders, and the parser's mean IoU on what it makes of them."""
    made = reconstruct(vae, heldout.images)
    scores = [parser.measure_agreement(image, label) for image, label in zip(made, heldout.labels.numpy())]
    return {"reconstruction_psnr": measure_psnr(made, heldout.images.numpy()),
            "reconstruction_miou": float(np.mean([score["mean_iou_present"] for score in scores]))}
