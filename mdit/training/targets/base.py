"""What the trainer asks of a target."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from ..data import BatchOrder
from ..settings import Optimiser, Settings


class Target(Protocol):
    """One kind of model to train, with its data.

    `module` holds all weights; called with a batch's tensors by name and the step's `rng` on its device, it returns
    the loss, or the terms of it by the names that the log gives them. Weights that do not require gradients are frozen
    and left out of checkpoints. `settings.recipe()` identifies the run.
    """
    settings: Settings
    module: nn.Module

    def start(self) -> None:
        """What comes before the first step of a new run."""

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Over all trained weights."""

    def batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        """A process's batch on the CPU: a function of its arguments and the seed alone."""

    def sheet(self) -> np.ndarray | None:
        """A picture (H, W, 3) uint8 of what the module makes; None where there is nothing to show."""

    def metrics(self) -> dict[str, float]:
        """Measurements on held-out data; empty without such."""

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Writes the finished file; `weights` is the module's state dict on the CPU."""


class Batches:
    """Which samples make a process's batch of a step. `keys` and `batch` as in BatchOrder, for one process."""

    def __init__(self, keys: Sequence[Hashable], batch: int, seed: int):
        self.keys = keys
        self.batch = batch
        self.seed = seed
        self.orders: dict[int, BatchOrder] = {}  # by the number of processes

    def __call__(self, step: int, process: int, processes: int) -> Tensor:
        """Indices (batch,)."""
        if processes not in self.orders:
            self.orders[processes] = BatchOrder(self.keys, self.batch * processes, self.seed)
        return self.orders[processes](step)[process::processes]


def make_optimisers(settings: Optimiser, matrices: list[nn.Parameter], groups: list[dict]
                    ) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the groups; without a rate for Muon, AdamW for all."""
    if settings.muon is None:
        groups, matrices = [*groups, {"params": matrices}], []
    groups = [group for group in groups if group["params"]]
    made = [torch.optim.Muon(matrices, settings.muon)] if matrices else []
    if groups:
        made.append(torch.optim.AdamW(groups, settings.adamw, settings.betas, weight_decay=settings.weight_decay))
    return made
