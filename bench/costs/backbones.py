"""The mask on the host's SD3, SD3.5 and FLUX models, and what a user would pick instead
(docs/design/adapters.md, sections 7 and 8).

    base        text and image alone
    naive       the mask as a third stream in one joint attention, recomputed in every call and row
    exact       the mask's keys and values from one static pass
    merge       the same, where flat regions' keys and values are one each
    half        a mask of half the resolution
    half_merge  both
    window      image queries read the mask keys near them, text queries none

On the CPU a model has one block of each kind, in fp32: each block's own cost counts as often as the kind occurs, and
everything outside the blocks once; one row is measured and counts for each. All shapes are the real ones. Of each part
of a call the fastest round counts: other programs on the machine can only add to it. On CUDA the depth is real, in
bf16, and seconds are medians.
"""
from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from .case import BF16, LABEL_MAP, MODES, RADIUS, RANK, Case
from .formulas import run_costs
from .hosts import PATCH, CELL, Control
from .measure import Meter, compute_removed, measure_in_turn, sum_fastest, time_call

MASK_EXTRA_MODE = "half_merge"
ROUNDS_S = {512: 150.0, 1024: 540.0}  # seconds that rounds of measurement may take, by the image's size
LEAST_ROUNDS = 3  # the first of a CPU's bears the cost of first touching the memory
CUDA_ROUNDS = 5
MIB = 2 ** 20


def count_image_tokens(size: int) -> int:
    """Number of image tokens of a square image of so many pixels a side."""
    return (size // CELL // PATCH) ** 2


def predict_flops(case: Case, rows: int) -> dict[str, int]:
    """FLOPs by the formulas of a step in exact mode, and of its static pass, without the adapter's terms."""
    sizes = case.sizes
    N = count_image_tokens(case.size)
    return run_costs(sizes.width, sizes.blocks, N, case.text_tokens, N, rows, sizes.second, sizes.text_ends,
                     sizes.linear, sizes.refiners)


def list_calls(case: Case, outputs: dict[str, Tensor]) -> dict[str, Callable]:
    """The calls that are measured on the backbone. `outputs` holds each call's latest output by name."""
    def store(name: str, call: Callable):
        outputs[name] = call()

    calls = {"base": partial(store, "base", case.run_base), "naive": case.run_joint}
    for mode in MODES:
        calls["static " + mode] = partial(case.run_static, mode)
        calls[mode] = partial(store, mode, partial(case.run_cached, mode))
    if case.sizes.reference_latents:
        calls["reference"] = case.run_reference_latents
    return calls


def measure_calls(case: Case, control: Control | None, budget: float) -> tuple[dict, dict, dict, int]:
    """Seconds and FLOPs of each call, the outputs, and the number of rounds behind the seconds.

    The first round counts FLOPs, too. On CUDA it only warms up.
    """
    outputs = {}
    start = time.perf_counter()
    calls = list_calls(case, outputs)
    meters = dict.fromkeys(calls, case.meter)
    if control is not None:
        calls["control"] = partial(case.run_controlled, control)
        meters["control"] = Meter(control.counts)
        tokens = torch.zeros(case.rows, count_image_tokens(case.size), case.sizes.width).to(case.x)
        calls["add"] = partial(tokens.add_, tokens.clone())
        meters["add"] = Meter({})

    first = {}
    flops = {}
    for name, call in calls.items():
        first[name], flops[name] = meters[name].measure_seconds_and_flops(call)
    round_s = time.perf_counter() - start

    if case.device.type == "cuda":
        times, rounds = measure_in_turn(calls, lambda _, call: time_call(call, case.device), combine=median,
                                        least=CUDA_ROUNDS, budget=budget)
    else:
        times, rounds = measure_in_turn(calls, lambda name, call: meters[name].measure_seconds(call),
                                        combine=sum_fastest, least=LEAST_ROUNDS, budget=budget - round_s, first=first,
                                        round_s=round_s)
    return times, flops, outputs, rounds


def compute_errors(case: Case, outputs: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """Exact mode against one masked attention over all three streams, the others against exact mode: the largest
    difference, and the RMS of the difference over that of the mask's own effect."""
    exact = outputs["exact"]
    base = outputs["base"]
    expected = dict.fromkeys(MODES, exact) | {"exact": case.run_joint(rows=1, decoupled=True)}
    differences = {mode: outputs[mode][:other.shape[0]] - other for mode, other in expected.items()}
    effect = (exact - base).square().mean().sqrt()
    largest = {mode: diff.abs().max().item() for mode, diff in differences.items()}
    relative = {mode: (diff.square().mean().sqrt() / effect).item() for mode, diff in differences.items()}
    return largest, relative


def scale_to_all_rows(costs: dict[str, float], times: float) -> dict[str, float]:
    """Costs of a step from those of some of its rows. The static pass is one for all rows."""
    return {name: cost if name.startswith("static") else times * cost for name, cost in costs.items()}


def count_weight_bytes(control: Control) -> int:
    """Of a ControlNet's weights in bf16 at full depth."""
    every = sum(x.numel() for x in control.module.parameters())
    repeated = sum((count - 1) * x.numel() for part, count in control.counts.items() for x in part.parameters())
    return BF16 * (every + repeated)


def make_mode_result(cost: dict[str, float], flops: dict[str, int], mode: str, steps: int) -> dict[str, float]:
    result = {}
    for suffix, costs in (("", cost), ("_flops", flops)):
        ratio = partial(compute_removed, costs["base"], costs["naive"])
        result["R_cold" + suffix] = ratio(costs[mode] + costs["static " + mode] / steps)
        result["R_warm" + suffix] = ratio(costs[mode])
    return result | {"base_s": cost["base"], "naive_s": cost["naive"], "cached_s": cost[mode],
                     "static_s": cost["static " + mode]}


@torch.inference_mode()
def make_result(case: Case, rows: int, steps: int, budget: float, exactness: Case) -> dict:
    """The JSON object. `exactness` is a case in fp32; where it is `case` itself, no call runs twice."""
    control = case.sizes.make_controlnet(case.size, case.whole, case.dtype, case.device)
    cost, flops, outputs, rounds = measure_calls(case, control, budget)
    cost = scale_to_all_rows(cost, rows / case.rows)
    flops = scale_to_all_rows(flops, rows / case.rows)
    if exactness is not case:
        outputs = {}
        calls = list_calls(exactness, outputs)
        calls["base"]()
        for mode in MODES:
            calls["static " + mode]()
            calls[mode]()
    error, relative = compute_errors(exactness, outputs)
    modes = {mode: make_mode_result(cost, flops, mode, steps) | {
        "cache_bytes": case.count_cache_bytes(mode), "error": error[mode], "error_relative": relative[mode],
        "extra_s": cost[mode] + cost["static " + mode] / steps - cost["base"]} for mode in MODES}
    reference = cost.get("reference", cost["naive"]) - cost["base"]
    rival = {} if control is None else {"controlnet_extra_s": cost["control"] + control.adds * cost["add"],
                                        "controlnet_bytes": count_weight_bytes(control)}
    formula = predict_flops(case, rows)
    ratio = partial(compute_removed, formula["base"], formula["naive"])
    return {"size": case.size, "steps": steps, "rows": rows, "text_tokens": case.text_tokens, "rounds": rounds,
            "modes": modes, **rival, "reference_extra_s": reference,
            "mask_extra_s": modes[MASK_EXTRA_MODE]["extra_s"], "mask_extra_mode": MASK_EXTRA_MODE,
            "adapter_bytes": case.count_adapter_bytes(), "flops": flops,
            "R_cold_formula": ratio(formula["cached"] + formula["static"] / steps),
            "R_warm_formula": ratio(formula["cached"])}


def format_table(result: dict) -> str:
    """R in per cent by mode, then the extra costs next to those of ControlNet, if any, and of reference latents."""
    modes = result["modes"]
    lines = [f"{'':12}{'R cold':^14}{'R warm':^14}",
             f"{'mode':12}" + f"{'time':>7}{'FLOPs':>7}" * 2
             + "  ms/step  static ms  cache MiB    error  of the mask's effect"]
    for mode, r in modes.items():
        shares = [100 * r[key] for key in ("R_cold", "R_cold_flops", "R_warm", "R_warm_flops")]
        lines.append(f"{mode:12}" + "{:7.1f}{:7.1f}{:7.1f}{:7.1f}".format(*shares)
                     + f"{1000 * r['cached_s']:9.0f}{1000 * r['static_s']:11.0f}{r['cache_bytes'] / MIB:11.0f}"
                     + f"{r['error']:9.1e}{r['error_relative']:12.1e}")
    first = modes["exact"]
    formula = [100 * result[key] for key in ("R_cold_formula", "R_warm_formula")]
    lines.append(f"base {1000 * first['base_s']:.0f} ms/step, naive {1000 * first['naive_s']:.0f} ms/step; "
                 "exact mode by the formulas: {:.1f} cold, {:.1f} warm".format(*formula))
    extra = {"reference latents": (result["reference_extra_s"], 0)}
    if "controlnet_extra_s" in result:
        extra = {"ControlNet": (result["controlnet_extra_s"], result["controlnet_bytes"])} | extra
    rival, (most, _) = next(iter(extra.items()))
    lines += ["", f"{f'instead of {rival}':30}extra ms/step  of its time  extra MiB"]
    for mode, r in modes.items():
        extra["mask, " + mode] = r["extra_s"], r["cache_bytes"] + result["adapter_bytes"]
    for name, (cost, held) in extra.items():
        lines.append(f"{name:30}{1000 * cost:13.0f}{100 * cost / most:11.1f} %{held / MIB:11.0f}")
    return "\n".join(lines)


def describe(case: Case, options: Namespace) -> str:
    """What was measured, and how."""
    sizes = case.sizes
    N = count_image_tokens(options.size)
    depth = "full depth" if case.whole else f"{len(case.counts)} blocks that stand for {case.counts} of their kind"
    reference = ("the host's own path, one latent of the image's size" if sizes.reference_latents else
                 "the host has none for this model: the naive form stands for it")
    rows = f"{options.rows} rows a step" + ("" if case.whole else " (one is measured)")
    return (f"{options.backbone}, {options.size} px: N = {N} image tokens, L = {case.text_tokens} text tokens, "
            f"{rows}, {options.steps} steps; width {sizes.width}, {depth}\n"
            f"adapter of rank {RANK}, window radius {RADIUS}, label map {LABEL_MAP} ({case.count_leaves()} keys once "
            "merged)\n"
            f"ControlNet: {sizes.control} blocks ({sizes.control_note}); reference latents: {reference}\n"
            "error: exact mode against one masked attention over all streams in fp32, the others against exact mode; "
            "random weights\nmemory: weights, and keys and values, in bf16 at full depth; the time of a mask includes "
            "its static pass over the run")


def run(options: Namespace, device: torch.device, dtype: torch.dtype):
    """Prints the text and, last, the JSON object."""
    whole = device.type == "cuda"
    rows = options.rows if whole else 1
    make = partial(Case, options.backbone, options.size, rows, options.text_tokens)
    with torch.inference_mode():
        case = make(whole, dtype, device)
        exactness = make(False, torch.float32, device) if whole else case
    print(describe(case, options), flush=True)
    result = make_result(case, options.rows, options.steps, options.seconds or ROUNDS_S[options.size], exactness)
    kind = "medians" if whole else "of each part of a call the fastest"
    print(f"{kind} of {result['rounds']} round(s)\n\n{format_table(result)}\n")
    print(json.dumps({"backbone": options.backbone, **result}))
