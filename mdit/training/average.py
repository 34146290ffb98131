"""The exponential moving average of the weights that a run trains."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn as nn
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..shared.weight_files import read_tensors


def list_trained_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and floating buffers such as a norm's statistics, of the layers that are not frozen."""
    for prefix, layer in module.named_modules():
        if any(w.requires_grad for w in layer.parameters(recurse=False)):
            tensors = [*layer.named_parameters(prefix, recurse=False), *layer.named_buffers(prefix, recurse=False)]
            yield from ((name, w) for name, w in tensors if w.is_floating_point())


class Average:
    """The average of a module's trained tensors; its decay rises to `decay` as (k + 1) / (k + 10).

    A `decay` of 0 makes no average.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.live = dict(list_trained_tensors(module)) if decay else {}
        self.mean = {name: w.detach().clone() for name, w in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        if self.mean:
            decay = min(self.decay, (step + 1) / (step + 10))
            get_ema_multi_avg_fn(decay)(list(self.mean.values()), list(self.live.values()), None)

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Within it, the module has the averages as its weights."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    def exchange(self) -> None:
        for name, w in self.live.items():
            live = w.data
            w.data = self.mean[name].data
            self.mean[name].data = live

    def save(self, path: Path) -> None:
        save_file({name: w.contiguous() for name, w in self.mean.items()}, path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        saved, _ = read_tensors(str(path), "output")
        for name, w in self.mean.items():
            w.copy_(saved[name])
