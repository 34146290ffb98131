"""FLOPs and seconds of calls, shared by the benches."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn as nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def count_attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_, **__) -> int:
    return sdpa_flop_count(q, k, v)


def make_counter() -> FlopCounterMode:
    """Counts the CPU's attention, too, which torch leaves out."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: count_attention_flops})


def count_flops(call: Callable) -> int:
    with make_counter() as counted:
        call()
    return counted.get_total_flops()


def time_call(call: Callable, device: torch.device) -> float:
    """CUDA events' seconds or, without CUDA, those that the CPU spent on this process."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_in_turn(calls: dict[str, Callable], measure: Callable, combine: Callable, least: int, budget: float,
            first: dict | None = None, round_s: float = 0.0) -> tuple[dict[str, float], int]:
    """Measures calls in rounds that run all calls in turn, so that a slow phase of the machine meets all calls.

    measure: of a call and its name.
    combine: of a call's measurements over all rounds.
    least: number of rounds; more follow while another one of `round_s` seconds fits into `budget` seconds.
    first: measurements of an earlier round.
    Returns the combined measurements by call, and the number of rounds.
    """
    samples = {name: [] for name in calls}
    start = time.perf_counter()
    count = 0
    if first is not None:
        samples = {name: [taken] for name, taken in first.items()}
        count = 1
    while count < least or time.perf_counter() - start + round_s < budget:
        for name, call in calls.items():
            samples[name].append(measure(name, call))
        count += 1
    return {name: combine(taken) for name, taken in samples.items()}, count


def sum_fastest(samples: list[np.ndarray]) -> float:
    """The sum of each part's least over the rounds: other programs on the machine can only add to it."""
    return np.min(samples, axis=0).sum().item()


def compute_removed(base: float, naive: float, cached: float) -> float:
    """R (docs/design/mditface.md, section 7.1), from costs of equal runs."""
    return (naive - cached) / (naive - base)


class Meter:
    """The cost of a call in which some modules stand for `counts[module]` modules of their kind.

    The cost of such a module's forward counts that many times, everything else once. Costs are measured in parts,
    which begin and end with the modules and with the layers inside them.
    """

    def __init__(self, counts: dict[nn.Module, int]):
        self.read = None
        self.count = 1
        for module, count in counts.items():
            module.register_forward_pre_hook(lambda *_, count=count: self.stand_for(count))
            module.register_forward_hook(lambda *_: self.stand_for(1))
            for layer in module.modules():
                if layer is not module and not list(layer.children()):
                    layer.register_forward_pre_hook(lambda *_: self.stand_for(self.count))

    def stand_for(self, count: int):
        """A part ends. What follows stands for `count` of its kind."""
        if self.read is not None:
            now = self.read()
            self.parts.append(self.count * (now - self.last))
            self.last = now
            self.count = count

    def gauge(self, call: Callable, read: Callable) -> np.ndarray:
        """The differences of `read()` over the parts of the call, each as often as it counts."""
        self.read = read
        self.parts = []
        self.last = read()
        self.count = 1
        call()
        self.stand_for(1)
        self.read = None
        return np.array(self.parts)

    def measure_seconds(self, call: Callable) -> np.ndarray:
        return self.gauge(call, time.process_time)

    def measure_seconds_and_flops(self, call: Callable) -> tuple[np.ndarray, int]:
        """Seconds by part, and FLOPs in all."""
        with make_counter() as counted:
            both = self.gauge(call, lambda: np.array((time.process_time(), counted.get_total_flops())))  # (parts, 2)
        return both[:, 0], round(both[:, 1].sum())
