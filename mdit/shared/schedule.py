"""Noise levels of rectified flows."""
from __future__ import annotations

import torch
from torch import Tensor

from comfy.model_sampling import time_snr_shift


def compute_flow_sigmas(shift: float, steps: int) -> Tensor:
    """Noise levels (steps + 1,) from 1 to 0, evenly spaced before they are shifted."""
    even = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return time_snr_shift(shift, even).float()
