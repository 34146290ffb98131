"""The measures of the bundled model (docs/design/bundled-model.md, section 3.8)."""
from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import comfy.utils
from devtools.host import ROOT
from mditface.mdit.labelmap import resize_nearest, swap_sides
from mditface.mdit.datasets import Renders
from mditface.mdit.evaluation.generate import Generator
from mditface.mdit.evaluation.metrics.agreement import LabelAgreement, Parser
from mditface.mdit.evaluation.metrics.attributes import AttributeAccuracy, AttributeRules
from mditface.mdit.render.caption import Caption

from .painted import list_painted_masks

RENDERER = ROOT / "mdit" / "render"
SHARD = 50  # renders in a file; an interrupted run loses at most one file
PAINTED_SEEDS = 4  # images of each painted mask
ROUNDS = 7


def make_renders(seed: int, size: int, count: int, workers: int) -> Renders:
    """Samples of the pack's renderer."""
    return Renders(draw_renders(seed, size, count, workers))


def draw_renders(seed: int, size: int, count: int, workers: int, relief: bool = False) -> Path:
    """The folder of such samples. The system's temporary folder keeps them until the renderer changes."""
    version = hashlib.blake2b(digest_size=6)
    for path in sorted(path for path in RENDERER.rglob("*") if path.suffix in (".py", ".npz")):
        version.update(path.read_bytes())
    name = f"{seed}-{size}-{count}{'-relief' if relief else ''}"
    folder = Path(tempfile.gettempdir(), f"mditface-renders-{version.hexdigest()}", name)
    command = [sys.executable, "-m", "mdit.render", folder, "--seed", str(seed), "--size", str(size),
               "--count", str(count), "--shard", str(SHARD), "--workers", str(workers)]
    subprocess.run([*command, "--relief"] if relief else command, cwd=ROOT, check=True)
    return folder


def draw(generator: Generator, labels: Tensor, captions: list[str], batch: int, title: str) -> np.ndarray:
    """Images (N, S, S, 3) uint8 of label maps (N, H, W)."""
    images = []
    for start in tqdm(range(0, len(captions), batch), unit_scale=batch, desc=title):
        end = min(start + batch, len(captions))
        images.append(generator(labels[start:end], captions[start:end], range(start, end)))
    return torch.cat(images).numpy()


def score_heldout(images: np.ndarray, heldout: Renders, parser: Parser, rules: AttributeRules) -> tuple[dict, dict]:
    """Label agreement and the attributes' accuracies of images of the held-out maps, in their order."""
    agreement = LabelAgreement(parser)
    accuracy = AttributeAccuracy(rules)
    for image, asked, appearance in zip(images, heldout.labels.numpy(), heldout.attributes):
        parsed = agreement.update(image, asked)
        accuracy.update(image, asked, parsed, appearance)
    return agreement.compute(), accuracy.compute()


def score_painted(generator: Generator, parser: Parser, batch: int) -> tuple[Tensor, Tensor, dict]:
    """Label maps (N, S, S), images (N, S, S, 3) and label agreement of the painted masks."""
    masks = list_painted_masks() * PAINTED_SEEDS
    labels = torch.from_numpy(np.stack([mask.labels for mask in masks]))  # (N, 512, 512)
    images = draw(generator, labels, [mask.caption for mask in masks], batch, "painted masks")
    labels = resize_nearest(labels, generator.size, generator.size)
    scores = LabelAgreement(parser)
    for mask, asked, image in zip(masks, labels, images):
        scores.update(image, (swap_sides(asked) if mask.swapped else asked).numpy())
    return labels, torch.from_numpy(images), scores.compute()


def time_image(generator: Generator, labels: Tensor, caption: str) -> float:
    """Median of the CPU seconds of one image on one thread, which other programs on the machine disturb least.

    If the host works on a GPU, seconds of wall clock.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spans = []
    for _ in range(ROUNDS):
        start = clock()
        generator(labels[None], [caption], [0])
        spans.append(clock() - start)
    torch.set_num_threads(threads)
    return statistics.median(spans)


def shrink(images: np.ndarray, side: int) -> Tensor:
    """Images (N, S, S, 3) uint8 -> (N, side, side, 3), by areas."""
    pixels = torch.from_numpy(images).movedim(-1, 1).float()
    return comfy.utils.common_upscale(pixels, side, side, "area", "disabled").round().byte().movedim(1, -1)


def make_short_captions(faces: Renders) -> list[str]:
    return list(map(Caption.short, faces.attributes))
