"""The overhead bench of the host's models on tiny ones: costs against the formulas, exactness, and output."""
from __future__ import annotations

import json

import pytest
import torch
import torch.nn as nn

import comfy.ldm.flux.math
import comfy.ldm.lumina.model
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.qwen_image.model
import comfy.model_management
from bench import overhead
from bench.costs import backbones, formulas, measure
from bench.costs.case import MODES, RANK, Case
from bench.costs.hosts import BACKBONES, ChromaSizes, Flux2Sizes, FluxSizes, QwenSizes, SD3Sizes, ZImageSizes
from mditface.mdit.mditface.adapter import streams
from mditface.mdit.mditface.adapter.families import sd3, zimage

SIZE, N, L, STEPS, ROWS = 128, 64, 12, 4, 2
TINY = {
    "sd3": SD3Sizes(heads=1, depth=5, control=2),
    "sd35m": SD3Sizes(heads=1, depth=5, control=2, second=2, qk_norm="rms"),
    "sd35l": SD3Sizes(heads=1, depth=5, control=2, qk_norm="rms", image_only=True),
    "flux": FluxSizes(heads=1, doubles=2, singles=4, control=(1, 2)),
    "flux2-klein-4b": Flux2Sizes(heads=1, doubles=2, singles=4),
    "flux2-dev": Flux2Sizes(heads=1, doubles=2, singles=4, guidance=True),
    "chroma": ChromaSizes(heads=1, doubles=2, singles=4, inner=64),
    "qwen-image": QwenSizes(heads=1, depth=5, control=2),
    "z-image": ZImageSizes(heads=6, depth=5),  # the least width of which the MLP's inside is 8 / 3
}
SHARED = ("flux2", "chroma")  # their blocks have no modulation of their own
ALONE = (*SHARED, "z-image")  # the host has no ControlNet for them
EXPECTED = {  # docs/design/adapters.md, section 7.2, in per cent: cold after 28 steps, and warm
    ("sd3", 512): (88.9, 90.3), ("sd3", 1024): (78.8, 79.9), ("sd35m", 512): (90.3, 91.8),
    ("sd35m", 1024): (81.8, 83.0), ("sd35l", 512): (91.8, 93.3), ("sd35l", 1024): (82.8, 84.1),
    ("flux", 512): (91.5, 93.1), ("flux", 1024): (84.0, 85.3), ("chroma", 512): (91.5, 93.1),
    ("chroma", 1024): (84.0, 85.3), ("flux2-klein-4b", 512): (91.8, 93.4), ("flux2-klein-4b", 1024): (84.4, 85.7),
    ("flux2-klein-9b", 512): (93.3, 94.9), ("flux2-klein-9b", 1024): (86.8, 88.2), ("flux2-dev", 512): (94.8, 96.5),
    ("flux2-dev", 1024): (89.7, 91.2), ("qwen-image", 512): (92.5, 94.1), ("qwen-image", 1024): (84.6, 85.9),
    ("z-image", 512): (93.5, 95.2), ("z-image", 1024): (86.4, 87.9),
}
KEYS = {"R_cold", "R_warm", "R_cold_flops", "R_warm_flops", "base_s", "naive_s", "cached_s", "cache_bytes", "error"}


@pytest.fixture(scope="module")
def as_the_host_runs_nodes():
    """A bench chooses inference mode itself."""


@pytest.fixture(autouse=True)
def tiny_host(monkeypatch):
    """Tiny models, and the attention that the bench asks the host for when it runs by itself."""
    monkeypatch.setitem(backbones.ROUNDS_S, SIZE, 0.0)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    for name, sizes in TINY.items():
        monkeypatch.setitem(BACKBONES, name, sizes)
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled", lambda: True)
    for module in (comfy.ldm.flux.math, comfy.ldm.modules.diffusionmodules.mmdit, streams, sd3, zimage):
        monkeypatch.setattr(module, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    for module in (comfy.ldm.lumina.model, comfy.ldm.qwen_image.model):
        monkeypatch.setattr(module, "optimized_attention_masked", comfy.ldm.modules.attention.attention_pytorch)


@pytest.fixture(params=TINY)
def case(request) -> Case:
    with torch.inference_mode():
        return Case(request.param, SIZE, ROWS, L, False, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("name, size", EXPECTED)
def test_formulas_give_the_table_of_the_design(name, size, monkeypatch):
    monkeypatch.undo()
    sizes, M = BACKBONES[name], (size // 16) ** 2
    cost = formulas.run_costs(sizes.width, sizes.blocks, M, sizes.text_tokens, M, 2, sizes.second, sizes.text_ends,
                              sizes.linear, sizes.refiners)
    found = [measure.compute_removed(cost["base"], cost["naive"], cost["cached"] + static / 28)
             for static in (cost["static"], 0)]
    assert [round(100 * share, 1) for share in found] == list(EXPECTED[name, size])


def count(case: Case, call) -> int:
    return case.meter.measure_seconds_and_flops(call)[1]


def embedding(case: Case) -> int:
    """FLOPs of the mask tokens' embedding, which the formulas leave out."""
    stream, tokens = case.readers["exact"].make_stream(case.model), case.get_tokens("exact")
    refined = case.sizes.refiners * formulas.count_static_flops(case.sizes.width, N)  # which the formulas know
    return measure.count_flops(lambda: stream.start(tokens, tokens.tokens, {})) - refined


def vector(case: Case) -> int:
    """FLOPs of what modulates the mask stream, which the formulas leave out."""
    stream = case.readers["exact"].make_stream(case.model)
    return measure.count_flops(lambda: stream.make_vector(torch.zeros(1), None, torch.float32))


def modulation(case: Case) -> int:
    """FLOPs of a row's modulation in all blocks, which the formulas leave out."""
    if case.sizes.family in SHARED:
        return 0
    if case.sizes.family == "z-image":
        return modulate_by_256(case, case.sizes.depth)
    singles = case.sizes.blocks - case.sizes.doubles if case.sizes.family == "flux" else 0
    parts = 6 * (case.sizes.blocks - singles) + 3 * (case.sizes.second + singles)
    return parts * 2 * case.sizes.width ** 2


def modulate_by_256(case: Case, blocks: int) -> int:
    """FLOPs of scales and gates, 4 a block, of a vector of 256 features."""
    return blocks * 4 * 2 * 256 * case.sizes.width


def other_modulation(case: Case) -> int:
    """FLOPs of a row's modulation of the text, or on Z-Image of the image in its refiner."""
    if case.sizes.family in SHARED:
        return 0
    if case.sizes.family == "z-image":
        return modulate_by_256(case, case.sizes.refiners)
    family = case.sizes.family
    if family == "sd3":
        parts = 6 * (case.sizes.depth - 1) + 2
    else:
        parts = 6 * (case.sizes.doubles if family == "flux" else case.sizes.depth)
    return parts * 2 * case.sizes.width ** 2


def outside_blocks(sizes) -> int:
    """FLOPs of a step on a model that has lost its blocks."""
    name = next(name for name in TINY if TINY[name] is sizes)
    case = Case(name, SIZE, ROWS, L, False, torch.float32, torch.device("cpu"))
    for blocks in ("joint_blocks", "double_blocks", "single_blocks", "transformer_blocks", "layers", "noise_refiner",
                   "context_refiner"):
        setattr(case.model.diffusion_model, blocks, nn.ModuleList())
    return measure.count_flops(case.run_base)


def last_layers(case: Case) -> int:
    """FLOPs of the last block's mask queries (and, in a single block, MLP), made by the same layer as its keys."""
    return {"sd3": 2, "qwen-image": 2, "z-image": 2, "flux2": 14}.get(case.sizes.family, 10) * case.sizes.width ** 2 * N


def terms(case: Case) -> int:
    """FLOPs of the low-rank terms on all mask tokens: 16 widths in and out a double block, 14 a single one.

    On FLUX.2 one more, on Qwen-Image two, whose queries, keys and values are layers of their own. Z-Image's MLP
    has three layers of 1 + 8 / 3 widths.
    """
    if case.sizes.family == "sd3":
        widths = 16 * (case.sizes.depth - 1) + 4
    elif case.sizes.family == "qwen-image":
        widths = 18 * (case.sizes.depth - 1) + 6
    elif case.sizes.family == "z-image":
        widths = 17 * (case.sizes.depth - 1) + 4
    else:
        more = case.sizes.family == "flux2"
        widths = (16 + more) * case.sizes.doubles + (14 + more) * (case.sizes.singles - 1) + 8 + 2 * more
    return 2 * RANK * case.sizes.width * N * widths


@torch.inference_mode()
def test_reading_and_static_pass_cost_what_the_formulas_say(case):
    expected, static = backbones.predict_flops(case, ROWS), count(case, lambda: case.run_static("exact"))
    extra = count(case, lambda: case.run_cached("exact")) - count(case, case.run_base)
    assert extra == expected["cached"] - expected["base"]
    outside = modulation(case) + embedding(case) + vector(case)
    assert static == expected["static"] + last_layers(case) + terms(case) + outside


@torch.inference_mode()
def test_base_and_naive_cost_what_the_formulas_say(case):
    expected, base = backbones.predict_flops(case, ROWS), count(case, case.run_base)
    assert base == expected["base"] + ROWS * (modulation(case) + other_modulation(case)) + outside_blocks(case.sizes)
    extra = count(case, case.run_joint) - base - embedding(case)
    rows = ROWS * (last_layers(case) + terms(case) + modulation(case))
    assert extra == expected["naive"] - expected["base"] + rows


@torch.inference_mode()
def test_exact_mode_is_the_masked_joint_attention(case):
    case.run_static("exact")
    cached, expected = case.run_cached("exact"), case.run_joint(decoupled=True)
    torch.testing.assert_close(cached, expected, rtol=0, atol=2e-6)
    assert (case.run_joint() - expected).abs().max() > 1e-3
    assert (case.run_base() - expected).abs().max() > 1e-3


def test_meter_counts_a_part_as_often_as_it_stands_for():
    a, b = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
    meter, x = measure.Meter({a: 5}), torch.zeros(3, 4)
    assert meter.measure_seconds_and_flops(lambda: b(a(x)))[1] == 2 * 3 * (5 * 4 * 8 + 8 * 2)
    assert measure.count_flops(lambda: b(a(x))) == 2 * 3 * (4 * 8 + 8 * 2)


@torch.inference_mode()
def test_few_blocks_stand_for_all():
    """FLOPs of every call on the whole model are those extrapolated from one block of each kind."""
    for name in TINY:
        counted = []
        for whole in (False, True):
            case = Case(name, SIZE, ROWS, L, whole, torch.float32, torch.device("cpu"))
            control = case.sizes.make_controlnet(SIZE, whole, torch.float32, case.device)
            flops = {call: count(case, run) for call, run in backbones.list_calls(case, {}).items()}
            weights = [case.count_adapter_bytes(), *map(case.count_cache_bytes, MODES)]
            if control is not None:
                meter = measure.Meter(control.counts)
                flops["control"] = meter.measure_seconds_and_flops(lambda: case.run_controlled(control))[1]
                weights.append(backbones.count_weight_bytes(control))
            counted.append((flops, weights))
        assert counted[0] == counted[1]


@pytest.mark.parametrize("name", TINY)
def test_bench_ends_with_one_json_object(name, capsys):
    overhead.main(["--backbone", name, "--size", str(SIZE), "--steps", str(STEPS), "--text-tokens", str(L)])
    text = capsys.readouterr().out
    result = json.loads(text.splitlines()[-1])
    assert (result["backbone"], result["size"], result["steps"]) == (name, SIZE, STEPS)
    if TINY[name].family in ALONE:
        assert "controlnet_extra_s" not in result and "instead of reference latents" in text
    else:
        assert result["controlnet_extra_s"] > 0
    assert list(result["modes"]) == list(MODES)
    for mode, found in result["modes"].items():
        assert KEYS <= found.keys() and f"\n{mode} " in text
        shares = [(found["naive_s"] - found["cached_s"] - part) / (found["naive_s"] - found["base_s"])
                  for part in (found["static_s"] / STEPS, 0)]
        assert [found["R_cold"], found["R_warm"]] == pytest.approx(shares)
    exact, half = result["modes"]["exact"], result["modes"]["half"]
    assert exact["error"] < 2e-6 < half["error"]
    assert exact["cache_bytes"] == 2 * TINY[name].blocks * N * TINY[name].width * 2 == 4 * half["cache_bytes"]
    assert exact["R_cold_flops"] == pytest.approx(result["R_cold_formula"], abs=0.05)  # low-rank terms
    assert exact["R_warm_flops"] < half["R_warm_flops"] < 1
    with torch.inference_mode():
        case = Case(name, SIZE, ROWS, L, False, torch.float32, torch.device("cpu"))
        assert result["flops"]["base"] == count(case, case.run_base)  # though one row was measured
    cheapest = result["modes"][result["mask_extra_mode"]]
    assert result["mask_extra_s"] == pytest.approx(
        cheapest["cached_s"] + cheapest["static_s"] / STEPS - cheapest["base_s"])


@pytest.mark.parametrize("argv, told", [
    (["--backbone", "sd9"], "sd9"), (["--rows", "0"], "--rows must be at least 1"), (["--size", "300"], "300")])
def test_bad_arguments_are_told(argv, told, capsys):
    with pytest.raises(SystemExit):
        overhead.main(argv)
    assert told in capsys.readouterr().err
