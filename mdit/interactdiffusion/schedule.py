"""How strongly interactions are read over a run: the three forms of scheduled sampling (spec section 9)."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

TIMESTEPS = 1000
SIGMA_TOLERANCE = 1e-5  # samplers come back to a listed sigma with a rounding error


class Moment(NamedTuple):
    """Where in a run the model is called: the step of how many, and the training timestep (0..999)."""
    step: int
    steps: int
    timestep: float


def moment(model_sampling, sigma: Tensor, sample_sigmas: Tensor) -> Moment:
    """The moment of a call at `sigma` () in a run over `sample_sigmas` (steps + 1,).

    Calls between two listed sigmas, of samplers with inner evaluations, belong to the step that they are made in.
    """
    passed = int((sample_sigmas >= sigma * (1 - SIGMA_TOLERANCE)).sum())
    return Moment(max(passed - 1, 0), len(sample_sigmas) - 1, float(model_sampling.timestep(sigma)))


class BySteps(NamedTuple):
    """The command line's form (A): full strength for a share of the steps, then a linear decay over another, then
    nothing. Without a decay it is the diffusers pipeline's form (C)."""
    full: float = 1.0
    decay: float = 0.0

    def scale(self, now: Moment) -> float:
        full, decay = int(self.full * now.steps), int(self.decay * now.steps)
        if now.step < full:
            return 1.0
        return max(0.0, (decay - 1 - (now.step - full)) / decay) if decay else 0.0


class ByTimestep(NamedTuple):
    """The web UI's form (B), by the noise: full strength over the first share `full` of the timesteps, then, where
    `end` is above it, a linear ramp to nothing at the share `end`."""
    full: float = 0.8
    end: float = 0.0

    def scale(self, now: Moment) -> float:
        last_full, last = ((1 - share) * TIMESTEPS for share in self)
        if now.timestep >= last_full:
            return 1.0
        return (now.timestep - last) / (last_full - last) if now.timestep >= last else 0.0
