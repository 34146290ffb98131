"""What a run's contests were decided by."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

import comfy.model_management

from .stages import Stage


class Contest(NamedTuple):
    """One fused step: log saliency of each side, the prior included, and where the subject won, (B, 1, H, W) each."""
    scene: Tensor
    subject: Tensor
    won: Tensor


@dataclass
class FusionRecord:
    """The stages that a run went through, by step, and the contests of its fused steps."""
    steps: int = 0
    stages: dict[int, Stage] = field(default_factory=dict)
    contests: dict[int, Contest] = field(default_factory=dict)

    def settle(self):
        """Moves the maps off the run's device, all at once: a copy at each step would wait for it."""
        device = comfy.model_management.intermediate_device()
        self.contests = {step: Contest(*(part.to(device) for part in contest))
                         for step, contest in self.contests.items()}

    def share(self, step: int) -> float:
        return self.contests[step].won.float().mean().item()

    def __str__(self):
        counts = ", ".join(f"{stage.name.lower()} {sum(found is stage for found in self.stages.values())}"
                           for stage in Stage)
        shares = [f"step {step + 1}: the subject won {self.share(step):.1%}" for step in sorted(self.contests)]
        return "\n".join([f"steps: {counts}", *shares])
