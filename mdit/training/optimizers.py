"""Optimizers by the names of a configuration. Those of optional packages are imported when they are asked for."""
from __future__ import annotations

import importlib
from typing import NamedTuple

import torch
import torch.nn as nn

from .settings import Optimizer


class Kind(NamedTuple):
    """A class that takes AdamW's arguments.

    package: that users install; None for what comes with PyTorch.
    state: bytes that it keeps for each weight.
    arguments: further ones.
    """
    module: str
    name: str
    package: str | None
    state: float
    arguments: dict = {}


KINDS = {
    "adamw": Kind("torch.optim", "AdamW", None, 8),
    "adamw-8bit": Kind("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", 2 + 2 * 4 / 256),  # a scale of 256 weights
    "prodigy": Kind("prodigyopt", "Prodigy", "prodigyopt", 16,
                    {"safeguard_warmup": True, "use_bias_correction": True}),  # as its authors advise with a ramp
}


def import_optimizer(kind: str) -> type[torch.optim.Optimizer]:
    """The class of a kind. Raises ValueError, with what to install, where it cannot be imported."""
    module, name, package, *_ = KINDS[kind]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"optimiser: {kind} needs the Python package {package} ({error}): install it with "
                         f"'pip install {package}' in ComfyUI's environment, or take adamw") from error


def make_optimizers(settings: Optimizer, matrices: list[nn.Parameter], groups: list[dict]
                    ) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW or its like for the groups; without a rate for Muon, the latter for all."""
    if settings.muon is None:
        groups = [*groups, {"params": matrices}]
        matrices = []
    groups = [group for group in groups if group["params"]]
    optimizers = [torch.optim.Muon(matrices, settings.muon)] if matrices else []
    if groups:
        optimizers.append(import_optimizer(settings.kind)(
            groups, lr=settings.adamw, betas=settings.betas, weight_decay=settings.weight_decay,
            **KINDS[settings.kind].arguments))
    return optimizers
