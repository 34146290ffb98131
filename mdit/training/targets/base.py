"""What the trainer needs of a target."""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from ..data import BatchOrder
from ..settings import Settings


class Target(Protocol):
    """One kind of model to train, with its data.

    settings: `settings.describe_recipe()` identifies the run.
    module: holds all weights. It is called with a batch's tensors by name and with the step's `rng` on its device. It
        returns the loss, or the terms of the loss by their names in the log. Weights that do not require gradients
        are frozen and left out of checkpoints.
    batches: which samples make a batch.
    """
    settings: Settings
    module: nn.Module
    batches: Batches

    def start(self) -> None:
        """Called before the first step of a new run; does nothing unless a target overrides it."""

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers of all trained weights."""

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        """A process's batch on the CPU: a function of its arguments and the seed alone."""

    def draw_sheet(self) -> np.ndarray | None:
        """An image (H, W, 3) uint8 of samples; None where there is nothing to show."""

    def measure(self) -> dict[str, float]:
        """Measurements on held-out data; empty without held-out data."""

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Writes the finished file; `weights` is the module's state dict on the CPU."""


class Batches:
    """The samples of each process's batch. `keys` and `batch` as in BatchOrder, for one process."""

    def __init__(self, keys: Sequence[Hashable], batch: int, seed: int):
        self.keys = keys
        self.batch = batch
        self.seed = seed
        self.orders: dict[int, BatchOrder] = {}  # by the number of processes

    def __call__(self, step: int, process: int, processes: int) -> Tensor:
        """Indices (batch,)."""
        return self.get_order(processes)(step)[process::processes]

    def get_order(self, processes: int) -> BatchOrder:
        if processes not in self.orders:
            self.orders[processes] = BatchOrder(self.keys, self.batch * processes, self.seed)
        return self.orders[processes]
