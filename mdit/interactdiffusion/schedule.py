"""Strength of the interactions over a run: the three forms of scheduled sampling.

docs/design/interactdiffusion.md, section 9.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

TIMESTEPS = 1000
SIGMA_TOLERANCE = 1e-5  # relative; samplers return to a listed sigma with a rounding error


class Moment(NamedTuple):
    """When in a run the model is called.

    step: 0, 1, ... of the run's steps.
    steps: number of steps of the run.
    timestep: training timestep, 0..999, fractions possible.
    """
    step: int
    steps: int
    timestep: float


def find_moment(model_sampling, sigma: Tensor, sample_sigmas: Tensor) -> Moment:
    """The moment of a call at `sigma` () in a run over `sample_sigmas` (steps + 1,).

    A call between two listed sigmas, made by a sampler with inner evaluations, belongs to the step it is made in.
    """
    reached = int((sample_sigmas >= sigma * (1 - SIGMA_TOLERANCE)).sum())
    return Moment(max(reached - 1, 0), len(sample_sigmas) - 1, float(model_sampling.timestep(sigma)))


class ScheduleBySteps(NamedTuple):
    """Form A, of the command line. Without a decay it is form C, of the diffusers pipeline.

    full: fraction of the steps at full strength.
    decay: fraction of the steps of the linear decay after that; the strength is 0 in the rest.
    """
    full: float = 1.0
    decay: float = 0.0

    def compute_scale(self, now: Moment) -> float:
        full_steps = int(self.full * now.steps)
        decay_steps = int(self.decay * now.steps)
        if now.step < full_steps:
            return 1.0
        if not decay_steps:
            return 0.0
        return max(0.0, (decay_steps - 1 - (now.step - full_steps)) / decay_steps)


class ScheduleByTimestep(NamedTuple):
    """Form B, of the web UI extension.

    full: fraction of the timesteps, from the noisiest on, at full strength.
    end: fraction of the timesteps at which a linear ramp reaches 0; at or below `full` there is no ramp.
    """
    full: float = 0.8
    end: float = 0.0

    def compute_scale(self, now: Moment) -> float:
        last_full = (1 - self.full) * TIMESTEPS
        last = (1 - self.end) * TIMESTEPS
        if now.timestep >= last_full:
            return 1.0
        return (now.timestep - last) / (last_full - last) if now.timestep >= last else 0.0
