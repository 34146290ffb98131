"""How fast a run goes, how much memory it takes, and how long it will last."""
from __future__ import annotations

import time

import psutil
import torch

GIB = 2 ** 30


class Pace:
    """Measures from one call of `read` to the next.

    samples: of a step, of all processes.
    steps: of the whole run.
    """

    def __init__(self, samples: int, steps: int, step: int, device: torch.device):
        self.samples = samples
        self.steps = steps
        self.step = step
        self.device = device
        self.time = time.perf_counter()

    def read(self, step: int) -> dict[str, float]:
        """samples_per_second; minutes_left; memory_gib, the peak on a card, else what the process holds now."""
        now = time.perf_counter()
        seconds = (now - self.time) / (step - self.step)  # a step
        self.time = now
        self.step = step
        return {"samples_per_second": self.samples / seconds, "minutes_left": (self.steps - step) * seconds / 60,
                "memory_gib": measure_memory(self.device) / GIB}


def measure_memory(device: torch.device) -> int:
    """Bytes: the peak on a card, else what the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
