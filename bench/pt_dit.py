"""PT-DiT's block compared with a direct implementation of it and with full attention.

    python dev.py bench pt_dit [--pixels 512,1024,2048] [--dtype fp32|bf16] [--text-tokens 60] [--rounds 3]

ours      our block, for one image with 200 text tokens
prompt    the same with as many text tokens as the prompt has, as the host calls it
empty     the same with the single token of an empty prompt
direct    the block written straight from its formulas, attention included
pair      the same on two rows, the prompt and the empty prompt
fused     `direct` with PyTorch's fused attention, which the authors' program calls
full      the host's PixArt block of the same width: full attention, 200 text tokens

The authors' program pads prompts to 200 masked tokens; `direct`, `pair` and `fused` read as many. The host puts prompts
of equal length into one call of two rows and others into two calls. A guided step of theirs is therefore one `pair`, of
ours one `prompt` and one `empty`. The step of `direct` and `fused` in two calls is reported, too. Seconds come from
CUDA events or, without CUDA, are CPU seconds of one thread. The fastest of all rounds counts, because other programs
only add time. Weights are random. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import comfy.ops
from comfy.ldm.pixart.pixartms import PixArtMSBlock
from mditface.mdit.pt_dit.config import PTDiTConfig
from mditface.mdit.pt_dit.cost import count_pixart_block, count_proxy_block, count_tokens
from mditface.mdit.pt_dit.layers import PTDiTBlock
from mditface.mdit.shared.windows import MASKED, build_layout

from .costs import direct, measure

CONFIG = PTDiTConfig(width=1152, depth=28, heads=16, caption=4096)
TOKEN = 16  # pixels
TEXT = 200
NAMES = ("ours", "prompt", "empty", "direct", "pair", "fused", "full")
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench pt_dit", description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", default="512,1024,2048",
                        help="comma-separated sides of images (default: 512,1024,2048)")
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32", help="number type (default: fp32)")
    parser.add_argument("--text-tokens", type=int, default=60,
                        help="text tokens of the prompt, up to 200 (default: 60)")
    parser.add_argument("--rounds", type=int, default=3,
                        help="rounds of measurement at the largest size, twice as many at half of it (default: 3)")
    options = parser.parse_args(argv)
    options.pixels = [int(side) for side in options.pixels.split(",")]
    unit = TOKEN * CONFIG.settings.window[1]
    if any(side < unit or side % unit for side in options.pixels):
        parser.error(f"--pixels: each must be a multiple of {unit}")
    if not 1 <= options.text_tokens <= TEXT or options.rounds < 1:
        parser.error("--text-tokens must be 1 to 200, --rounds at least 1")
    return options


def fill_weights(block: torch.nn.Module) -> torch.nn.Module:
    for weight in block.requires_grad_(False).parameters():
        weight.normal_(std=CONFIG.width ** -0.5)
    return block


class Inputs(NamedTuple):
    """x (B, N, d), text (B, L, d) and its bias (B, 1, L), vec (B, 6, d), mask (B * nw, P, P) of shifted windows."""
    x: Tensor
    text: Tensor
    text_bias: Tensor
    vec: Tensor
    mask: Tensor


class Case:
    """Both kinds of block at one size, with the inputs of one image."""

    def __init__(self, pixels: int, prompt: int, dtype: torch.dtype, device: torch.device):
        torch.manual_seed(0)
        side = pixels // TOKEN
        d = CONFIG.width
        factory = dict(dtype=dtype, device=device, operations=comfy.ops.disable_weight_init)
        self.block = fill_weights(PTDiTBlock(d, CONFIG.heads, **factory))
        self.full = fill_weights(PixArtMSBlock(d, CONFIG.heads, **factory))
        self.grid = (1, side, side)
        self.window = CONFIG.settings.window
        self.prompt = prompt
        self.x = torch.randn(1, side * side, d).to(device, dtype)
        self.text = torch.randn(1, TEXT, d).to(device, dtype)
        self.vec = torch.randn(1, 6, d).to(device, dtype)
        self.layout = build_layout(self.grid, self.window, CONFIG.settings.proxies, self.x)
        mask = direct.make_shifted_mask(torch.Size((1, *self.grid, d)), self.window).to(self.x)
        text_bias = self.x.new_full((1, 1, TEXT), MASKED)
        text_bias[..., :prompt] = 0
        self.one = Inputs(self.x, self.text, text_bias, self.vec, mask)
        self.two = Inputs._make(y.repeat(2, 1, 1) for y in self.one)
        self.two.text_bias[1, :, 1:] = MASKED

    def run_ours(self, text: int) -> Tensor:
        return self.block(self.x, self.text[:, :text], None, self.vec, self.layout)

    def run_theirs(self, inputs: Inputs, attention: Callable) -> Tensor:
        return direct.run_direct_block(self.block, inputs.x, inputs.text, inputs.text_bias, inputs.vec, grid=self.grid,
                                   window=self.window, mask=inputs.mask, attention=attention)

    def list_calls(self) -> dict[str, Callable]:
        return {"ours": lambda: self.run_ours(TEXT), "prompt": lambda: self.run_ours(self.prompt),
                "empty": lambda: self.run_ours(1), "direct": lambda: self.run_theirs(self.one, direct.attend_all_pairs),
                "pair": lambda: self.run_theirs(self.two, direct.attend_all_pairs),
                "fused": lambda: self.run_theirs(self.one, F.scaled_dot_product_attention),
                "full": lambda: self.full(self.x, self.text, self.vec)}

    def compute_error(self) -> float:
        """The largest difference between our block and its direct form on the same two prompts."""
        ours = torch.cat((self.run_ours(self.prompt), self.run_ours(1)))
        return (ours - self.run_theirs(self.two, direct.attend_all_pairs)).abs().max().item()


@torch.inference_mode()
def measure_size(pixels: int, options: argparse.Namespace, device: torch.device) -> dict:
    """The entry of one size in the JSON object."""
    case = Case(pixels, options.text_tokens, TYPES[options.dtype], device)
    error = case.compute_error()  # warms up, too
    rounds = options.rounds * max(options.pixels) // pixels
    found, _ = measure.measure_in_turn(case.list_calls(), lambda _, call: measure.time_call(call, device), combine=min,
                                       least=rounds, budget=0)
    counts = count_tokens(case.grid, CONFIG.settings, TEXT)
    proxy_macs = sum(count_proxy_block(CONFIG.width, counts).values())
    pixart_macs = count_pixart_block(CONFIG.width, counts.N, TEXT)
    step = found["prompt"] + found["empty"]
    return {f"{name}_s": seconds for name, seconds in found.items()} | {
        "direct_ratio": found["direct"] / found["ours"], "direct_step_ratio": found["pair"] / step,
        "direct_calls_ratio": 2 * found["direct"] / step, "fused_ratio": found["fused"] / found["ours"],
        "fused_calls_ratio": 2 * found["fused"] / step,
        "full_ratio": found["full"] / found["ours"], "full_predicted": pixart_macs / proxy_macs, "error": error}


def format_row(pixels: int, r: dict) -> str:
    seconds = "".join(f"{r[name + '_s']:8.3f}" for name in NAMES)
    return (f"{pixels:>5} px{seconds} |{r['direct_ratio']:7.2f}{r['direct_step_ratio']:6.2f}"
            f"{r['direct_calls_ratio']:10.2f} |{r['fused_ratio']:6.2f}{r['fused_calls_ratio']:10.2f} |"
            f"{r['full_ratio']:8.2f}{r['full_predicted']:11.2f} | {r['error']:.1e}")


def main(argv: list[str] | None = None):
    options = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one CPU thread"
    print(f"{options.dtype} on {where}; width {CONFIG.width}, {CONFIG.heads} heads, windows of 8 x 8 tokens; a prompt "
          f"of {options.text_tokens} tokens\n")
    print("seconds a block" + " " * 49 + "| times as fast as")
    titles = "".join(f"{name:>8}" for name in NAMES)
    print(" " * 8 + titles + " | direct  step  in calls | fused  in calls |   full  predicted | error")
    results = {}
    for pixels in options.pixels:
        results[pixels] = measure_size(pixels, options, device)
        print(format_row(pixels, results[pixels]), flush=True)
    print()
    print(json.dumps({"bench": "pt_dit", "dtype": options.dtype, "text_tokens": options.text_tokens,
                      "sizes": {str(pixels): result for pixels, result in results.items()}}))


if __name__ == "__main__":
    main()
