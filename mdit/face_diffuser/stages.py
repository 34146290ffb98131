"""The three stages of a run: scene, fusion, subject: docs/design/face-diffuser.md, sections 5, 10 and 11.2."""
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

SAME_SIGMA = 1e-6  # relative


class Stage(Enum):
    SCENE, FUSION, SUBJECT = range(3)


@dataclass(frozen=True)
class Borders:
    """Where the stages end, as fractions of the run's steps. 0 leaves a stage out.

    The published script has 15 and 30 of 50 steps. Raises ValueError for borders in the wrong order.
    """
    scene_end: float = 0.3
    fusion_end: float = 0.6

    def __post_init__(self):
        if self.fusion_end < self.scene_end:
            raise ValueError(f"fusion_end: {self.fusion_end:g} is before scene_end {self.scene_end:g}: raise it, or "
                             "set both to the same value to skip fusion")

    def find_stage(self, step: int, steps: int) -> Stage:
        """The stage of step 0, 1, ... of a run; both ends are inclusive."""
        if step <= find_last_step(self.scene_end, steps):
            return Stage.SCENE
        return Stage.FUSION if step <= find_last_step(self.fusion_end, steps) else Stage.SUBJECT


def find_last_step(fraction: float, steps: int) -> int:
    return round(fraction * steps) if fraction > 0 else -1


def find_step(sigma: Tensor, sigmas: Tensor) -> int:
    """The step of an evaluation at `sigma` () in a schedule (steps + 1).

    Second evaluations of a step count as the step whose noise level they are made at.
    """
    return max(0, int((sigmas[:-1] >= sigma * (1 - SAME_SIGMA)).sum()) - 1)


def compute_leading_sigmas(sampling, steps: int, to_clean: bool = True) -> Tensor:
    """Noise levels (steps + 1) of the time steps that the published schedulers visit.

    Time steps are 1000 // steps apart, and the last is 1. The schedule ends at 0 or, as theirs, at time step 0.
    Raises ValueError for more steps than the model's schedule has.
    """
    table = sampling.sigmas
    if steps >= len(table):
        raise ValueError(f"steps: {steps}, but the model's schedule has {len(table)}: take fewer")
    visited = table[1::len(table) // steps][:steps]
    end = table[:1] * (not to_clean)
    return torch.cat([visited.flip(0), end]).float().cpu()
