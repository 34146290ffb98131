"""The record of a run: its stages, and the saliency maps of its fused steps."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management

from .stages import Stage


class FusedStep(NamedTuple):
    """The maps of one fused step, (B, 1, h, w) each.

    scene: log saliency of the scene model.
    subject: log saliency of the subject model, the prior included.
    subject_mask: True where the subject model won.
    """
    scene: Tensor
    subject: Tensor
    subject_mask: Tensor

    def to(self, device: torch.device) -> FusedStep:
        return FusedStep(self.scene.to(device), self.subject.to(device), self.subject_mask.to(device))

    def compute_fraction_won(self) -> float:
        """The fraction of the cells that the subject model won."""
        return self.subject_mask.float().mean().item()


@dataclass
class FusionRecord:
    """What happened in a run.

    steps: number of steps.
    stages: stage of each step that was made.
    fused_steps: maps of each step of the fusion stage.
    """
    steps: int = 0
    stages: dict[int, Stage] = field(default_factory=dict)
    fused_steps: dict[int, FusedStep] = field(default_factory=dict)

    def offload(self):
        """Moves all maps off the run's device at once: a copy at each step would wait for the device."""
        device = comfy.model_management.intermediate_device()
        self.fused_steps = {step: maps.to(device) for step, maps in self.fused_steps.items()}

    def __str__(self):
        stages = list(self.stages.values())
        counts = ", ".join(f"{stage.name.lower()} {stages.count(stage)}" for stage in Stage)
        lines = [f"step {step + 1}: the subject won {maps.compute_fraction_won():.1%}"
                 for step, maps in sorted(self.fused_steps.items())]
        return "\n".join([f"steps: {counts}", *lines])
