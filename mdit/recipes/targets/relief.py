"""The network that finds depth and normals of a label map."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from pydantic import model_validator
from safetensors.torch import save_file
from torch import Tensor

from ...datasets.habits import Habits, Placing
from ...datasets.reliefs import ReliefBatch, Reliefs
from ...evaluation.metrics.agreement import average_scores
from ...evaluation.metrics.relief import FACE, measure_relief
from ...relief.light import light_relief, show_depth, show_normals
from ...relief.network import OUTSIDE, ReliefConfig, ReliefNetwork
from ...training.data import make_step_rng, make_torch_rng
from ...training.optimizers import make_optimizers
from ...training.sampling import make_sheet
from ...training.settings import Count, Settings, Weight
from ...training.targets.base import Batches, Target

SHEET_COUNT = 12
PREFIX = "network."
DEPTH = 3.0  # weight of the depth, beside those of the settings
STEPS = (1, 4, 16)  # pixels from one depth to the other of a slope


class ReliefSettings(Settings):
    """Settings of a run.

    size, widths, detail: of the network, as in ReliefConfig. The renders have this size.
    slope, normal, face: weights of the depth's slopes and of the normals, and what skin and nose add to theirs.
    """
    heldout: Path
    size: Count = ReliefConfig().size
    widths: tuple[Count, ...] = ReliefConfig().widths
    detail: Count = ReliefConfig().detail
    slope: Weight = 2.0
    normal: Weight = 1.0
    face: Weight = 1.0

    @model_validator(mode="after")
    def check_sizes(self):
        self.make_config()
        return self

    def make_config(self) -> ReliefConfig:
        return ReliefConfig(self.size, self.widths, self.detail)


class ReliefLoss(nn.Module):
    """The network with its loss (docs/design/control-maps.md, section 3)."""

    def __init__(self, settings: ReliefSettings):
        super().__init__()
        self.network = ReliefNetwork(settings.make_config()).to(memory_format=torch.channels_last)
        self.weights = {"slope": settings.slope, "normal": settings.normal}
        self.face = settings.face

    def forward(self, labels: Tensor, depth: Tensor, normals: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Terms of the loss for labels (B, S, S) uint8, depth (B, S, S) and normals (B, 3, S, S)."""
        found = self.network(labels)
        counted = ((labels > 0) & (labels != OUTSIDE) & depth.isfinite()).float()  # (B, S, S)
        away = center((found[:, 0] - depth.nan_to_num(neginf=0)) * counted, counted)
        face = torch.isin(labels, torch.tensor(FACE, dtype=labels.dtype, device=labels.device))
        bend = ((1 - (found[:, 1:] * normals).sum(1)).clamp(min=0) / 2 + 1e-6).sqrt()  # sine of half the angle
        terms = {"depth": average(away.abs(), counted),
                 "slope": sum(average(*find_slopes(away, counted, step)) for step in STEPS) / len(STEPS),
                 "normal": average(bend, counted * (1 + self.face * face))}
        total = DEPTH * terms["depth"] + sum(weight * terms[name] for name, weight in self.weights.items())
        return {"loss": total} | {name: term.detach() for name, term in terms.items()}


def average(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


def center(away: Tensor, counted: Tensor) -> Tensor:
    """Errors (B, S, S) without their mean in each sample: how near the whole figure is, no map can tell."""
    mean = away.sum((1, 2), keepdim=True) / counted.sum((1, 2), keepdim=True).clamp(min=1)
    return (away - mean) * counted


def find_slopes(away: Tensor, counted: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """By how much errors (B, S, S) differ from those `step` pixels to the right and below, and which pairs count."""
    slopes = []
    pairs = []
    for axis in (1, 2):
        size = away.shape[axis] - step
        slopes.append((away.narrow(axis, step, size) - away.narrow(axis, 0, size)).abs().flatten())
        pairs.append((counted.narrow(axis, step, size) * counted.narrow(axis, 0, size)).flatten())
    return torch.cat(slopes), torch.cat(pairs)


class ReliefTarget(Target):
    """See base.Target."""

    def __init__(self, settings: ReliefSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.samples = Reliefs(settings.data)
        self.heldout = Reliefs(settings.heldout)
        for name, found in (("data", self.samples), ("heldout", self.heldout)):
            if found.labels.shape[1] != settings.size:
                raise ValueError(f"{name}: the renders have {found.labels.shape[1]} pixels, the network "
                                 f"{settings.size}: render them with --size {settings.size}")
        self.module = ReliefLoss(settings)
        self.batches = Batches([0] * len(self.samples), settings.batch, settings.seed)
        self.place = Placing()
        self.habits = Habits()

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        return make_optimizers(self.settings.optimiser, [], [{"params": list(self.module.parameters())}])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        index = self.batches(step, process, processes)
        rng = make_torch_rng(make_step_rng(self.settings.seed, step, process))
        batch = self.samples.get_batch(index)
        batch = self.place(batch._replace(labels=self.habits(batch.labels, rng)), rng)
        return batch._asdict()

    @torch.no_grad()
    def find_heldout(self, count: int) -> tuple[ReliefBatch, Tensor, Tensor]:
        """The first held-out samples, and the depth (count, S, S) and normals (count, 3, S, S) that are found."""
        batch = self.heldout.get_batch(torch.arange(min(count, len(self.heldout))))
        found = torch.cat([self.module.network(labels[None].to(self.device)).cpu() for labels in batch.labels])
        return batch, found[:, 0], found[:, 1:]

    @property
    def device(self) -> torch.device:
        return self.module.network.out.weight.device

    def draw_sheet(self) -> np.ndarray:
        batch, depth, normals = self.find_heldout(SHEET_COUNT)
        figure = batch.labels > 0
        rows = []
        for values, directions in ((depth, normals), (batch.depth, batch.normals)):
            rows += [show_depth(values, figure), show_normals(directions, figure), light_relief(directions, figure)]
        return make_sheet(batch.labels, *((row * 255).round().to(torch.uint8) for row in rows))

    def measure(self) -> dict[str, float]:
        """Means over all held-out samples."""
        batch, depth, normals = self.find_heldout(len(self.heldout))
        return average_scores(list(map(measure_relief, depth, normals, batch.depth, batch.normals, batch.labels)))

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name.removeprefix(PREFIX): (w.half() if w.is_floating_point() else w).contiguous()
                   for name, w in weights.items()}, path, self.settings.make_config().to_metadata())
