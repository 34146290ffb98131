"""The stand-alone MDiT: what its mask costs, and how much of it the static cache removes
(docs/design/mditface.md, section 7.3).

FLOPs are counted on whole models at their full depth, embeddings and modulation included. `error` is the largest
difference in fp32 between the cached output and the same function computed in one masked attention over all three
streams.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface.attention import MaskRows
from mditface.mdit.mditface.cache import StaticEntry
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.layers import MDiTBlock
from mditface.mdit.mditface.model import MDiT
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.mditface.tokens import MaskTokens, make_mask_tokens

from . import measure
from .formulas import run_costs


class Size(NamedTuple):
    width: int
    depth: int
    heads: int


SIZES = {"Ti": Size(192, 6, 3), "S": Size(384, 12, 6), "B": Size(768, 12, 12)}
TEXT_TOKENS = 77
HALVES = 2
CELL = 8  # pixels of a latent cell
PATCH = 2  # latent cells of a token
CHANNELS = 16
TEXT_WIDTH = 768
ROUNDS_S = 3.0  # small models get more rounds than asked for, until this time has passed
KINDS = ("R_cold", "R_warm", "R_cold_half")
EXPECTED = {  # docs/design/mditface.md, section 7.3, in per cent, in the order of KINDS
    256: {"Ti": (80.5, 81.7, 95.2), "S": (87.6, 89.0, 96.9), "B": (92.0, 93.5, 98.0)},
    512: {"Ti": (70.7, 71.5, 92.7), "S": (77.7, 78.8, 94.5), "B": (83.7, 85.0, 96.0)},
}


def predict_flops(size: Size, N: int) -> dict[str, int]:
    """FLOPs by the formulas of a step, and of the static pass, with M = N mask tokens and (half) with N / 4."""
    whole, half = (run_costs(size.width, size.depth, N, TEXT_TOKENS, M, HALVES) for M in (N, N // 4))
    return whole | {"cached_half": half["cached"], "static_half": half["static"]}


def compute_removed_fractions(cost: dict[str, float], steps: int) -> dict[str, float]:
    """R of a whole run from the costs of a step and of the static pass."""
    ratio = partial(measure.compute_removed, cost["base"], cost["naive"])
    return {"R_cold": ratio(cost["cached"] + cost["static"] / steps), "R_warm": ratio(cost["cached"]),
            "R_cold_half": ratio(cost["cached_half"] + cost["static_half"] / steps)}


def run_joint_block(block: MDiTBlock, txt: Tensor, img: Tensor, msk: Tensor, vec: Tensor, mask_vec: Tensor, pe: Tensor,
                mask_pe: Tensor, bias: Tensor | None, last: bool) -> list[Tensor]:
    """The text, image and mask streams (B, L, N and M, d) after a block in which all queries read all keys.

    `bias` (1, 1, L+N+M, L+N+M) is added to the logits, None for zero. The last block's mask tokens are not
    computed: two streams come back.
    """
    streams = (block.txt, txt, vec, None), (block.img, img, vec, pe), (block.msk, msk, mask_vec, mask_pe)
    mods = [stream.make_modulation(v) for stream, _, v, _ in streams]
    inputs = [stream.make_qkv(h, mod, pe) for (stream, h, _, pe), mod in zip(streams, mods)]
    queries = streams[:2] if last else streams
    q = torch.cat([q for q, _, _ in inputs[:len(queries)]], dim=2)  # (B, H, L+N+M or L+N, D)
    k, v = (torch.cat(parts, dim=2) for parts in list(zip(*inputs))[1:])  # (B, H, L+N+M, D)
    bias = None if bias is None else bias[..., :q.shape[2], :]
    out = optimized_attention(q, k, v, block.heads, mask=bias, skip_reshape=True)  # (B, L+N+M or L+N, d)
    outs = out.split([h.shape[1] for _, h, _, _ in queries], dim=1)
    return [stream.add_residuals(h, o, mod) for (stream, h, _, _), o, mod in zip(queries, outs, mods)]


class Joint:
    """The joint form of a model's blocks, which it replaces through the host's `patches_replace`.

    `decoupled` hides text and image keys from the mask queries and modulates the mask stream by the constant
    vector: what the static cache computes (docs/design/mditface.md, sections 3.3 and 3.4), without its code.
    """

    def __init__(self, model: MDiT, tokens: MaskTokens, decoupled: bool = False):
        self.model = model
        self.tokens = tokens
        self.decoupled = decoupled
        blocks = {("double_block", i): self for i in range(len(model.blocks))}
        self.options = {"patches_replace": {"dit": blocks}}

    def __call__(self, args: dict, extra: dict) -> dict:
        index = args["transformer_options"]["block_index"]
        if index == 0:
            self.start(**args)
        last = index + 1 == len(self.model.blocks)
        txt, img, *self.mask = run_joint_block(
            self.model.blocks[index], args["txt"], args["img"], *self.mask, args["vec"],
            self.vec if self.decoupled else args["vec"], args["pe"], self.pe, self.bias, last)
        return {"img": img, "txt": txt}

    def start(self, img: Tensor, txt: Tensor, vec: Tensor, **_):
        tokens = self.model.mask_embed(self.tokens.tokens)
        self.bias = None
        msk, self.pe = self.model.add_positions(tokens, self.tokens.list_positions(), {})
        self.mask = [msk.expand(img.shape[0], -1, -1)]  # (B, M, d)
        if self.decoupled:
            own = txt.shape[1] + img.shape[1]
            M = tokens.shape[1]
            self.vec = self.model.make_vector(vec.new_zeros(1), vec.new_zeros(1, self.model.config.pooled_dim))
            self.bias = img.new_zeros(1, 1, own + M, own + M)
            self.bias[..., own:, :own] = torch.finfo(img.dtype).min


class Case:
    """A model of one size at one resolution, with the inputs of a step."""

    def __init__(self, size: Size, pixels: int, device: torch.device):
        torch.manual_seed(0)
        self.config = MDiTConfig(size.width, size.depth, size.heads, PATCH, CHANNELS, TEXT_WIDTH, TEXT_WIDTH,
                                 latent_format="sd3", resolution=pixels)
        self.model = MDiT(self.config, torch.float32, device, comfy.ops.disable_weight_init)
        self.model.eval().requires_grad_(False)
        for name, weight in self.model.named_parameters():
            weight.normal_(std=weight.shape[-1] ** -0.5) if weight.ndim > 1 else weight.fill_("norm" in name)
        side = pixels // CELL
        self.inputs = {"x": torch.randn(HALVES, CHANNELS, side, side, device=device),
                       "timesteps": torch.full((HALVES,), 0.5, device=device),
                       "context": torch.randn(HALVES, TEXT_TOKENS, TEXT_WIDTH, device=device),
                       "y": torch.randn(HALVES, TEXT_WIDTH, device=device)}
        self.labels = torch.randint(len(CLASSES), (1, pixels // 32, pixels // 32), dtype=torch.uint8)
        self.labels = self.labels.repeat_interleave(32, 1).repeat_interleave(32, 2)  # (1, pixels, pixels)

    def to(self, dtype: torch.dtype):
        self.model.to(dtype)
        self.inputs = {name: x.to(dtype) for name, x in self.inputs.items()}

    def make_tokens(self, half: bool = False) -> MaskTokens:
        found = make_mask_tokens(self.labels, None, torch.ones(len(CLASSES)), self.config.mask_layout, CELL,
                                 REDUCTIONS["half" if half else "off"])
        return found._replace(tokens=found.tokens.to(self.inputs["x"]))

    def run_static(self, tokens: MaskTokens) -> StaticEntry:
        return StaticEntry(self.model.run_static_path(tokens.tokens, tokens.list_positions()), None, eight_bit=False)

    def run_cached(self, entry: StaticEntry) -> Tensor:
        return self.model(**self.inputs, mask_rows=(MaskRows(slice(0, HALVES), entry),))

    def run_joint(self, decoupled: bool = False) -> Tensor:
        return self.model(**self.inputs, transformer_options=Joint(self.model, self.make_tokens(), decoupled).options)

    def compute_error(self) -> float:
        cached = self.run_cached(self.run_static(self.make_tokens()))
        return (cached - self.run_joint(decoupled=True)).abs().max().item()

    def list_calls(self) -> dict[str, Callable]:
        """What is measured, under the names of `predict_flops`."""
        naive = Joint(self.model, self.make_tokens())
        calls = {"base": lambda: self.model(**self.inputs),
                 "naive": lambda: self.model(**self.inputs, transformer_options=naive.options)}
        for half in ("", "_half"):
            tokens = self.make_tokens(half=bool(half))
            calls["cached" + half] = lambda entry=self.run_static(tokens): self.run_cached(entry)
            calls["static" + half] = lambda tokens=tokens: self.run_static(tokens)
        return calls


@torch.inference_mode()
def measure_size(size: Size, pixels: int, steps: int, repeats: int, device: torch.device, dtype: torch.dtype) -> dict:
    """The entry of one size in the JSON object."""
    case = Case(size, pixels, device)
    error = case.compute_error()
    case.to(dtype)
    calls = case.list_calls()
    counted = {name: measure.count_flops(call) for name, call in calls.items()}  # warms up, too
    times, _ = measure.measure_in_turn(calls, lambda _, call: measure.time_call(call, device), combine=median,
                                       least=repeats, budget=ROUNDS_S)
    result = {}
    formulas = predict_flops(size, (pixels // CELL // PATCH) ** 2)
    for suffix, cost in (("_flops", counted), ("_predicted", formulas), ("", times)):
        result |= {name + suffix: value for name, value in compute_removed_fractions(cost, steps).items()}
    return result | {name + "_s": value for name, value in times.items()} | {
        "cache_bytes": case.run_static(case.make_tokens()).nbytes, "error": error}


def format_table(results: dict[str, dict], pixels: int) -> str:
    """R in per cent, the figures of docs/design/mditface.md first, then the costs behind it."""
    titles = {"R_cold": "R cold", "R_warm": "R warm", "R_cold_half": "R cold, M = N/4"}
    lines = [" " * 12 + "".join(f"{titles[kind]:^30}" for kind in KINDS),
             f"{'size':12}" + f"{'design':>7}{'formula':>8}{'FLOPs':>7}{'time':>7} " * len(KINDS)]
    for name, result in results.items():
        cells = [f"{name + ' ' + '{}x{}'.format(*SIZES[name]):12}"]
        reference = EXPECTED.get(pixels, {}).get(name, ("-",) * len(KINDS))
        for kind, expected in zip(KINDS, reference):
            shares = [100 * result[kind + suffix] for suffix in ("_predicted", "_flops", "")]
            cells.append(f"{expected:>7}" + "{:8.1f}{:7.1f}{:7.1f} ".format(*shares))
        lines.append("".join(cells))
    lines += ["", f"{'size':12}" + "base ms/step  naive ms/step  cached ms/step  static pass ms  cache MiB  error"]
    for name, r in results.items():
        ms = [1000 * r[key] for key in ("base_s", "naive_s", "cached_s", "static_s")]
        lines.append(f"{name:12}" + "{:12.2f}{:15.2f}{:16.2f}{:16.2f}{:11.2f}".format(*ms, r["cache_bytes"] / 2**20)
                     + f"  {r['error']:.1e}")
    return "\n".join(lines)


def run(sizes: list[str], pixels: int, steps: int, repeats: int, device: torch.device, dtype: torch.dtype):
    """Prints the text and the JSON object."""
    N = (pixels // CELL // PATCH) ** 2
    print(f"{pixels} px: N = M = {N} tokens, L = {TEXT_TOKENS}; {steps} steps of {HALVES} evaluations; medians of "
          f"{repeats} rounds or more\n")
    results = {name: measure_size(SIZES[name], pixels, steps, repeats, device, dtype) for name in sizes}
    print(format_table(results, pixels) + "\n")
    print(json.dumps({"bench": "overhead", "pixels": pixels, "steps": steps, "sizes": results}))
