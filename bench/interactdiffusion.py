"""Extra time of InteractDiffusion on Stable Diffusion 1.5, compared with the authors' fuser.

    python dev.py bench interactdiffusion [--size 512] [--rows 2] [--rounds 3]

    ours       the fusers as the nodes run them: keys and values of the interaction tokens are computed once a run
    no reuse   the same, but keys and values are computed in every call
    plain      the reference's fuser: all tokens make queries, everything is computed in every call, and attention
               computes the matrix of all pairs, as in the authors' programs
    plain, host attention   the same with the attention that the host chooses

A step is one call of the UNet; its rows are the two halves of guidance. The UNet's own layers are the same in all
forms, so the extra time is the fusers' time on the inputs that they get in a bare step. Seconds are CUDA events' or,
without CUDA, CPU seconds of one thread; the least of all rounds counts. Weights are random, since cost does not depend
on them. The last line printed is one JSON object; `extra_s` is in seconds a step. See docs/design/interactdiffusion.md,
section 7.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from mditface.mdit.interactdiffusion.model import InteractDiffusion, InteractDiffusionSizes

from .costs.measure import time_call
from .costs.plain import run_plain_fuser
from .costs.sd15 import UNET

WIDTHS = (320,) * 2 + (640,) * 2 + (1280,) * 6 + (640,) * 3 + (320,) * 3
SIZES = InteractDiffusionSizes(768, 64, 512, 768, 30, WIDTHS)
TARGET = 0.6


def randomize(module: torch.nn.Module, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """The module on the device, with random weights that keep the scale of activations; gates are open."""
    module = module.to_empty(device=device).to(dtype)
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return module


class Case:
    """The UNet with its fusers, and one step's inputs; `forms` gives the middle patch of each form."""

    def __init__(self, size: int, rows: int, device: torch.device, dtype: torch.dtype, unet: dict = UNET,
                 sizes: InteractDiffusionSizes = SIZES):
        torch.manual_seed(0)
        factory = dict(dtype=dtype, device="meta", operations=comfy.ops.disable_weight_init)
        self.unet = randomize(UNetModel(**unet, **factory), device, dtype)
        self.fusers = randomize(InteractDiffusion(sizes, **factory), device, dtype).fusers
        make = partial(torch.randn, device=device, dtype=dtype)
        self.device = device
        self.x = make(rows, 4, size // 8, size // 8)
        self.context = make(rows, 77, unet["context_dim"])
        self.tokens = make(rows, 3 * sizes.slots, sizes.token)
        self.t = torch.full((rows,), 500.0, device=device)
        self.entries = [fuser.project_tokens(self.tokens) for fuser in self.fusers]
        self.forms = {"ours": self.run_ours, "no reuse": self.run_recomputed, "plain": self.run_plain,
                      "plain, host attention": partial(self.run_plain, attention=optimized_attention)}

    def run_ours(self, x: Tensor, options: dict) -> Tensor:
        i = options["transformer_index"]
        k, v = self.entries[i]
        return self.fusers[i](x, k, v, 1.0, options)

    def run_recomputed(self, x: Tensor, options: dict) -> Tensor:
        fuser = self.fusers[options["transformer_index"]]
        k, v = fuser.project_tokens(self.tokens)
        return fuser(x, k, v, 1.0, options)

    def run_plain(self, x: Tensor, options: dict, **attention) -> Tensor:
        return run_plain_fuser(self.fusers[options["transformer_index"]], x, self.tokens, 1.0, **attention)

    def run_step(self, patch: Callable) -> Tensor:
        options = {"patches": {"middle_patch": [patch]}}
        return self.unet(self.x, self.t, context=self.context, transformer_options=options)


class Figures(NamedTuple):
    """What was measured.

    bare: seconds a step of the bare UNet.
    extra: seconds a step of each form's fusers.
    error: largest difference of `ours` from `plain`.
    """
    bare: float
    extra: dict[str, float]
    error: float

    def make_rows(self) -> dict[str, dict[str, float]]:
        """For each form: extra seconds a step, as a fraction of a bare step, and ours as a fraction of the form's."""
        return {name: {"extra_s": extra, "of_bare": extra / self.bare, "ours_over_it": self.extra["ours"] / extra}
                for name, extra in self.extra.items()}


def measure(case: Case, rounds: int) -> Figures:
    inputs = []
    outputs = {}
    samples = {name: [] for name in case.forms}

    def collect(x: Tensor, options: dict) -> Tensor:
        inputs.append((x, options))
        return x

    def run(name: str):
        outputs[name] = [case.forms[name](x, options) for x, options in inputs]
    bare = time_call(partial(case.run_step, collect), case.device)
    for _ in range(rounds):
        for name in case.forms:
            samples[name].append(time_call(partial(run, name), case.device))
    error = max((ours - plain).abs().max().item() for ours, plain in zip(outputs["ours"], outputs["plain"]))
    return Figures(bare, {name: min(taken) for name, taken in samples.items()}, error)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench interactdiffusion", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=512, help="side of the image (default: 512)")
    parser.add_argument("--rows", type=int, default=2, help="rows of a step, 2 with guidance (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measurement (default: 3)")
    options = parser.parse_args(argv)
    if options.size < 64 or options.size % 64:
        parser.error(f"--size: {options.size} is not a multiple of 64")
    for name in ("rows", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


@torch.inference_mode()
def main(argv: list[str] | None = None):
    options = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    print(f"{dtype} on {where}, {options.size} px, {options.rows} rows; the host's {optimized_attention.__name__}\n")
    found = measure(Case(options.size, options.rows, device, dtype), options.rounds)
    rows = found.make_rows()
    print(f"bare UNet {found.bare:.3f} s a step; largest difference of ours from plain {found.error:.1e}\n")
    print(f"{'form':24}{'extra s':>10}{'of bare':>10}{'ours / it':>11}")
    for name, row in rows.items():
        print(f"{name:24}{row['extra_s']:10.3f}{row['of_bare']:10.1%}{row['ours_over_it']:11.2f}")
    print("\n" + json.dumps({"bench": "interactdiffusion", "size": options.size, "rows": options.rows,
                              "base_s": found.bare, "error": found.error, "target": TARGET, "forms": rows}))


if __name__ == "__main__":
    main()
