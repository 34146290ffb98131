"""Cost of the mask, and the fraction that the static cache removes (docs/design/mditface.md, section 7).

    python dev.py bench overhead [--sizes Ti,S,B] [--pixels 256] [--steps 28] [--repeats 5]
    python dev.py bench overhead --backbone sd3|sd35m|sd35l|flux|flux2-klein-4b|... [--size 512|1024] [--steps 28]

    base    text and image alone
    naive   three streams in one joint attention: every call recomputes the mask tokens, in both guidance halves
    cached  the dynamic path on stored mask keys and values, after one static pass (cold) or none (warm)

R = (naive - cached) / (naive - base) over a whole run, from FLOPs and from seconds. A step is one call of two rows:
the host batches the guidance halves. Seconds come from CUDA events or, without CUDA, from the CPU time of one thread,
which other programs disturb least. Weights are random: costs do not depend on them. The first form measures
stand-alone models. The second measures the host's models with an adapter, compared with a ControlNet.
The last line is one JSON object: R as fractions, `*_s` in seconds a step (`static_s` in seconds a pass).
"""
from __future__ import annotations

import argparse

import torch

from comfy.ldm.modules.attention import optimized_attention

from .costs import backbones, standalone
from .costs.hosts import BACKBONES


def parse(argv: list[str] | None) -> argparse.Namespace:
    sizes = standalone.SIZES
    parser = argparse.ArgumentParser(prog="dev.py bench overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=28, help="steps of a run (default: 28)")
    alone = parser.add_argument_group("stand-alone models")
    alone.add_argument("--sizes", default=",".join(sizes), help="comma-separated, of %s" % ", ".join(sizes))
    alone.add_argument("--pixels", type=int, default=256, help="side of the image (default: 256)")
    alone.add_argument("--repeats", type=int, default=5, help="rounds of measurement at least (default: 5)")
    host = parser.add_argument_group("the host's models")
    host.add_argument("--backbone", choices=list(BACKBONES), help="which one; without it, stand-alone models")
    host.add_argument("--size", type=int, choices=list(backbones.ROUNDS_S), default=512,
                      help="side of the image (default: 512)")
    host.add_argument("--rows", type=int, default=2, help="rows of a step, 2 with guidance (default: 2)")
    host.add_argument("--text-tokens", type=int, help="by default as many as the model usually has")
    host.add_argument("--seconds", type=float, help="time for rounds of measurement; at least one is made")
    options = parser.parse_args(argv)
    options.sizes = options.sizes.split(",")
    if unknown := [name for name in options.sizes if name not in sizes]:
        parser.error(f"--sizes: there is no {', '.join(unknown)}, only {', '.join(sizes)}")
    if options.pixels < 32 or options.pixels % 32:
        parser.error(f"--pixels: {options.pixels} is not a multiple of 32")
    for name in ("steps", "repeats", "rows", "text_tokens"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return options


def main(argv: list[str] | None = None):
    options = parse(argv)
    has_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if has_cuda else "cpu")
    dtype = torch.bfloat16 if has_cuda else torch.float32
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if has_cuda else "one CPU thread"
    print(f"{dtype} on {where}; in all modes the host's {optimized_attention.__name__}, as on GPUs")
    if options.backbone is None:
        standalone.run(options.sizes, options.pixels, options.steps, options.repeats, device, dtype)
    else:
        backbones.run(options, device, dtype)


if __name__ == "__main__":
    main()
