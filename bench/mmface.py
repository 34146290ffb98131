"""A step of MMFace-DiT at full width and depth, and what of it could be kept from step to step.

    python dev.py bench mmface [--pixels 256,512] [--dtype fp32|bf16] [--rounds 2]

step        one evaluation of the network for one row; a step with guidance has two
condition   the condition's half of the patch layer: what a cache of the mask would save
text        projection of the text tokens and of the pooled text
modulation  shifts, scales and gates of all blocks

Seconds come from CUDA events or, without CUDA, are CPU seconds of one thread. The fastest of all rounds counts, because
other programs only add time. Weights are random. Shares are of the step of the same run. The last line printed is one
JSON object.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ops
from mditface.mdit.mmface.config import MMFaceConfig
from mditface.mdit.mmface.model import MMFaceDiT

from .costs import measure

CONFIG = MMFaceConfig(width=1152, depth=28, text=1024)
CELL = 8  # pixels
TEXT = 77  # tokens
PARTS = ("condition", "text", "modulation")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench mmface", description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", default="256,512", help="comma-separated sides of images (default: 256,512)")
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32", help="number type (default: fp32)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of measurement (default: 2)")
    options = parser.parse_args(argv)
    options.pixels = [int(side) for side in options.pixels.split(",")]
    unit = CELL * CONFIG.patch
    if any(side < unit or side % unit for side in options.pixels):
        parser.error(f"--pixels: each must be a multiple of {unit}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def build_network(dtype: torch.dtype, device: torch.device) -> MMFaceDiT:
    torch.manual_seed(0)
    network = MMFaceDiT(CONFIG, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init)
    for weight in network.requires_grad_(False).parameters():
        weight.normal_(std=CONFIG.width ** -0.5)
    return network.eval()


def list_calls(network: MMFaceDiT, pixels: int, dtype: torch.dtype, device: torch.device) -> dict[str, Callable]:
    """The calls that are measured, for one row."""
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape).to(device, dtype)

    side = pixels // CELL
    x = normal(1, CONFIG.in_channels, side, side)
    condition = x[:, CONFIG.latent_channels:].contiguous()
    context, y, vec = normal(1, TEXT, CONFIG.text), normal(1, CONFIG.text), normal(1, CONFIG.width)
    t = torch.full((1,), 500.0, device=device)
    modality = torch.zeros(1, dtype=torch.long, device=device)
    weight = network.x_embedder.proj.weight[:, CONFIG.latent_channels:].contiguous()
    return {
        "step": lambda: network(x, t, context, y, modality),
        "condition": lambda: F.conv2d(condition, weight, stride=CONFIG.patch),
        "text": lambda: (network.clip_seq_proj(context), network.c_embedder(y)),
        "modulation": lambda: [block.adaLN_modulation(vec) for block in network.blocks],
    }


@torch.inference_mode()
def measure_size(network: MMFaceDiT, pixels: int, options: argparse.Namespace, device: torch.device) -> dict:
    """The entry of one size in the JSON object."""
    calls = list_calls(network, pixels, TYPES[options.dtype], device)
    for part in PARTS:
        calls[part]()  # warms up
    found, _ = measure.measure_in_turn(calls, lambda _, call: measure.time_call(call, device), combine=min,
                                       least=options.rounds, budget=0)
    shares = {f"{part}_share": found[part] / found["step"] for part in PARTS}
    return {f"{name}_s": seconds for name, seconds in found.items()} | shares


def main(argv: list[str] | None = None):
    options = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    network = build_network(TYPES[options.dtype], device)
    count = sum(weight.numel() for weight in network.parameters())
    print(f"{options.dtype} on {where}; width {CONFIG.width}, {CONFIG.depth} blocks, {count / 1e9:.3f} G weights\n")
    results = {}
    for pixels in options.pixels:
        results[pixels] = r = measure_size(network, pixels, options, device)
        shares = ", ".join(f"{part} {100 * r[part + '_share']:.3f} %" for part in PARTS)
        print(f"{pixels:>5} px  {r['step_s']:8.3f} s a row and step: {shares}", flush=True)
    print()
    print(json.dumps({"bench": "mmface", "dtype": options.dtype, "weights": count,
                      "sizes": {str(pixels): result for pixels, result in results.items()}}))


if __name__ == "__main__":
    main()
