"""DynaST's generator at its published widths, compared with a plain, direct implementation of it.

    python dev.py bench dynast [--pixels 256] [--rounds 3] [--threads 1]

ours      our network: keys are gathered chunk by chunk
direct    the same weights, every tensor whole (bench/costs/dynast.py)

Each round of each runs in a process of its own, in turn, on the CPU. Seconds are CPU seconds of the fastest round.
Memory is the difference between the peak of the process and what it held before the call, which includes weights and
inputs. Weights and images are random. `agreement` is the fraction of values that agree within 0.001: one candidate that
the last digit decides differently changes its neighborhood. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from mditface.mdit.dynast.config import DynaSTConfig
from mditface.mdit.dynast.model import DynaST

from .costs.dynast import run_direct
from .costs.measure import time_call

CONFIG = DynaSTConfig(nc=20)
SMALLEST = 32  # pixels
UNIT = 8  # pixels
CLOSE = 1e-3
SPREAD = 0.015  # scale of the score projections, so that scores differ by a few, as after training
CALLS = {"ours": lambda network, *inputs: network(*inputs).image, "direct": run_direct}


class Run(NamedTuple):
    """CPU seconds, bytes that the call added at its peak, and the image (1, 3, H, W)."""
    seconds: float
    peak: int
    image: np.ndarray


def make_network(pixels: int) -> DynaST:
    network = DynaST(dataclasses.replace(CONFIG, size=pixels)).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.ndim == 4:
            weight.normal_(std=1.0 if name == "pos_embed" else weight[0].numel() ** -0.5)
            if name.endswith((".f.weight", ".g.weight")):
                weight.mul_(SPREAD)
        elif name.endswith("bias"):
            weight.zero_()
    return network


def make_inputs(pixels: int) -> list[Tensor]:
    """A label, an exemplar and its label."""
    return [torch.rand(1, CONFIG.nc, pixels, pixels), torch.rand(1, 3, pixels, pixels) * 2 - 1,
            torch.rand(1, CONFIG.nc, pixels, pixels)]


@torch.inference_mode()
def run(name: str, pixels: int, threads: int) -> Run:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = make_network(pixels)
    inputs = make_inputs(pixels)
    images = []
    before = psutil.Process().memory_info().rss
    taken = time_call(lambda: images.append(CALLS[name](network, *inputs)), torch.device("cpu"))
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    return Run(taken, peak, images[0].numpy())


def run_in_process(name: str, pixels: int, threads: int) -> Run:
    """`run` in a new process, whose peak is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, name, pixels, threads).result()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench dynast", description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=256, help="side of the image (default: 256)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurement (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(argv)
    if options.pixels < SMALLEST or options.pixels % UNIT:
        parser.error(f"--pixels must be a multiple of {UNIT} and at least {SMALLEST}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return options


def main(argv: list[str] | None = None):
    options = parse(argv)
    runs = {name: [] for name in CALLS}
    for _ in range(options.rounds):
        for name, found in runs.items():
            found.append(run_in_process(name, options.pixels, options.threads))
            print(f"{name:>8} {found[-1].seconds:8.2f} s {found[-1].peak / 1e6:8.0f} MB", flush=True)
    result = {}
    for name, found in runs.items():
        result[f"{name}_s"] = min([one.seconds for one in found])
        result[f"{name}_bytes"] = min([one.peak for one in found])
    difference = np.abs(runs["ours"][0].image - runs["direct"][0].image)
    result |= {"time_ratio": result["ours_s"] / result["direct_s"],
               "memory_ratio": result["ours_bytes"] / result["direct_bytes"],
               "agreement": float((difference < CLOSE).mean())}
    print(f"\n{options.pixels} px: {result['time_ratio']:.2f} of the time, {result['memory_ratio']:.2f} of the memory, "
          f"{result['agreement']:.2%} of the values agree")
    print(json.dumps({"bench": "dynast", "pixels": options.pixels, "threads": options.threads, **result}))


if __name__ == "__main__":
    main()
