"""The face parser that judges images."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from pydantic import model_validator
from safetensors.torch import save_file
from torch import Tensor

from ...labelmap import CLASSES, to_image
from ...parsing import FaceParser, ParserConfig, measure_agreement
from ...datasets.augment import mirror, normalize
from ...datasets.distort import Distortion
from ...datasets.mapped import MappedRenders
from ...evaluation.metrics.agreement import average_scores
from ...training.data import make_step_rng, make_torch_rng
from ...training.optimizers import make_optimizers
from ...training.sampling import make_sheet
from ...training.settings import Count, Fraction, Settings
from ...training.targets.base import Batches, Target

WEIGHED_COUNT = 2000  # samples in which the classes' pixels are counted
SHEET_COUNT = 12
PREFIX = "parser."


class JudgeSettings(Settings):
    """Settings of a run.

    size, widths: of the parser, as in ParserConfig. Larger images are reduced.
    rarity: power of a class's rarity in its weight.
    distorted: chance of each change of an image and its label map (see Distortion).
    """
    heldout: Path
    size: Count = ParserConfig().size
    widths: tuple[Count, ...] = ParserConfig().widths
    rarity: Fraction = 0.3
    distorted: Fraction = 0.0

    @model_validator(mode="after")
    def check_sizes(self):
        self.make_config()
        return self

    def make_config(self) -> ParserConfig:
        return ParserConfig(self.size, self.widths)


def compute_class_weights(labels: np.ndarray, rarity: float) -> Tensor:
    """(19,), larger for rarer classes, 1 in the mean over the pixels of label maps (N, H, W) uint8."""
    counts = sum(np.bincount(label.ravel(), minlength=len(CLASSES)) for label in labels)
    fraction = torch.from_numpy(counts.clip(min=1)).float() / labels.size
    weight = fraction ** -rarity
    return weight / (fraction * weight).sum()


def vary(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random gains and offsets of the channels, and noise, such as a generator may add to an image."""
    batch = images.shape[0]
    random = dict(generator=rng, device=images.device)
    gain, offset = torch.rand(2, batch, 3, 1, 1, **random)
    noise = torch.randn(images.shape, **random) * 0.06 * torch.rand(batch, 1, 1, 1, **random)
    return images * (0.8 + 0.4 * gain) + 0.3 * (offset - 0.5) + noise


class Judge(nn.Module):
    """The parser with its loss. weights: of the classes, (19,)."""

    def __init__(self, config: ParserConfig, weights: Tensor, distortion: Distortion | None = None):
        super().__init__()
        self.parser = FaceParser(config).to(memory_format=torch.channels_last)
        self.distortion = distortion
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Cross entropy for images (B, 3, S, S) uint8 and labels (B, S, S) uint8."""
        images = normalize(images)
        if self.distortion:
            images, labels = self.distortion(images, labels, rng)
        logits = self.parser(vary(images, rng).to(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), labels.long(), self.weights)


class JudgeTarget(Target):
    """See base.Target."""

    def __init__(self, settings: JudgeSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.faces = MappedRenders(settings.data)
        heldout = MappedRenders(settings.heldout)
        self.heldout_images, self.heldout_labels = heldout.get_batch(torch.arange(len(heldout)), settings.size)
        weights = compute_class_weights(self.faces.labels[:WEIGHED_COUNT], settings.rarity)
        distortion = Distortion(settings.distorted) if settings.distorted else None
        self.module = Judge(settings.make_config(), weights, distortion)
        self.batches = Batches([0] * len(self.faces), settings.batch, settings.seed)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        return make_optimizers(self.settings.optimiser, [], [{"params": list(self.module.parameters())}])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        index = self.batches(step, process, processes)
        rng = make_torch_rng(make_step_rng(self.settings.seed, step, process))
        chosen = torch.rand(len(index), generator=rng) < 0.5
        images, labels = self.faces.get_batch(index, self.settings.size)
        images, labels = mirror(images, labels, chosen)
        return {"images": images, "labels": labels}

    def parse_heldout(self, count: int | None = None) -> np.ndarray:
        """The parser's maps of the first held-out images, (count, S, S) uint8."""
        parser = self.module.parser.eval()
        try:
            images = self.heldout_images[:count].permute(0, 2, 3, 1).numpy()
            return np.stack([parser.parse(image) for image in images])
        finally:
            parser.train()

    def draw_sheet(self) -> np.ndarray:
        parsed = to_image(torch.from_numpy(self.parse_heldout(SHEET_COUNT)))
        images = self.heldout_images[:SHEET_COUNT].permute(0, 2, 3, 1)
        return make_sheet(self.heldout_labels[:SHEET_COUNT], (parsed * 255).round().to(torch.uint8), images)

    def measure(self) -> dict[str, float]:
        """Means over all held-out images, and each class's intersection over union over the pixels of all images."""
        parsed = self.parse_heldout()
        labels = self.heldout_labels.numpy()
        found = average_scores([measure_agreement(*maps) for maps in zip(parsed, labels)])
        for index, name in enumerate(CLASSES):
            both = (parsed == index) & (labels == index)
            either = (parsed == index) | (labels == index)
            found[f"iou/{name}"] = float(both.sum() / max(1, either.sum()))
        return found

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name.removeprefix(PREFIX): (w.half() if w.is_floating_point() else w).contiguous()
                   for name, w in weights.items()}, path, self.settings.make_config().to_metadata())
