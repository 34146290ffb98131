"""The overhead bench of stand-alone models: formulas against the table of
docs/design/mditface.md, section 7.3, and counted FLOPs; its output."""
from __future__ import annotations

import json

import pytest
import torch

import comfy.ops
from bench import overhead
from bench.costs import formulas, measure, standalone
from mditface.mdit.mditface.attention import MaskRows
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.mditface.layers import MDiTBlock

B, N, L, M, D = 2, 64, 12, 64, 32
LAST = pytest.mark.parametrize("last", [False, True])


@pytest.fixture(scope="module")
def as_the_host_runs_nodes():
    """A bench chooses inference mode itself."""


@pytest.fixture(scope="module")
def block() -> MDiTBlock:
    config = MDiTConfig(width=D, depth=1, heads=2, patch=2, in_channels=4, text_dim=8, pooled_dim=8)
    block = MDiTBlock(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    return block.requires_grad_(False)


def modulation(streams: int, rows: int) -> int:
    """FLOPs of the streams' modulation, which the formulas leave out."""
    return streams * rows * 12 * D * D


def tokens(count: int, rows: int = B) -> torch.Tensor:
    return torch.zeros(rows, count, D)


def count_dynamic(block, masks=()) -> int:
    return measure.count_flops(lambda: block(tokens(N), tokens(L), torch.zeros(B, D), None, masks, 0))


def test_base_block_costs_what_the_formula_says(block):
    assert count_dynamic(block) - modulation(2, B) == B * formulas.count_base_flops(D, N, L)


@pytest.mark.parametrize("keys", [M, M // 4])
def test_dynamic_block_costs_what_the_formula_says(block, keys):
    kv = torch.zeros(1, block.heads, keys, D // block.heads)
    extra = count_dynamic(block, (MaskRows(slice(0, B), [(kv, kv)]),)) - count_dynamic(block)
    assert extra == B * formulas.count_dynamic_extra(D, N, L, keys)


@LAST
def test_static_block_costs_what_the_formula_says(block, last):
    """The last block's queries are made, too: they come out of the same layer as its keys and values."""
    counted = measure.count_flops(lambda: block.run_static(tokens(M, 1), torch.zeros(1, D), None, last))
    assert counted - modulation(1, 1) == formulas.count_static_flops(D, M, last) + last * 2 * D * D * M


@LAST
def test_naive_block_costs_what_the_formula_says(block, last):
    vec = torch.zeros(B, D)
    counted = measure.count_flops(lambda: standalone.run_joint_block(
        block, tokens(L), tokens(N), tokens(M), vec, vec, None, None, None, last))
    expected = formulas.count_base_flops(D, N, L) + formulas.count_naive_extra(D, N, L, M, last) + last * 2 * D * D * M
    assert counted - modulation(3, B) == B * expected


@pytest.mark.parametrize("pixels", standalone.EXPECTED)
@pytest.mark.parametrize("name", standalone.SIZES)
def test_formulas_give_the_table_of_the_design_page(name, pixels):
    predicted = standalone.predict_flops(standalone.SIZES[name], (pixels // 16) ** 2)
    found = standalone.compute_removed_fractions(predicted, steps=28)
    assert [round(100 * found[kind], 1) for kind in standalone.KINDS] == list(standalone.EXPECTED[pixels][name])


def test_bench_ends_with_one_json_object(monkeypatch, capsys):
    monkeypatch.setitem(standalone.SIZES, "tiny", standalone.Size(64, 3, 2))
    monkeypatch.setattr(standalone, "ROUNDS_S", 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    overhead.main(["--sizes", "tiny", "--pixels", "128", "--steps", "4", "--repeats", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["pixels"], result["steps"]) == ("overhead", 128, 4)
    size = result["sizes"]["tiny"]
    assert {"R_cold", "R_warm", "base_s", "naive_s", "cached_s", "static_s", "cache_bytes"} <= size.keys()
    for kind in standalone.KINDS:
        assert size[kind + "_flops"] == pytest.approx(size[kind + "_predicted"], abs=0.01)
    assert size["cache_bytes"] == 3 * 2 * 64 * 64 * (2 if torch.cuda.is_available() else 4)
    assert size["error"] < 1e-5


def test_error_would_show_other_keys_and_another_form():
    with torch.inference_mode():
        case = standalone.Case(standalone.Size(64, 3, 2), 64, torch.device("cpu"))
        expected = case.run_joint(decoupled=True)
        kv = [(k * 1.01, v) for k, v in case.run_static(case.make_tokens()).blocks]
        assert (case.run_cached(kv) - expected).abs().max() > 1e-4
        assert (case.run_joint() - expected).abs().max() > 1e-2


@pytest.mark.parametrize("argv, told", [(["--sizes", "Ti,Q"], "no Q"), (["--pixels", "250"], "multiple of 32"),
                                        (["--steps", "0"], "at least 1")])
def test_bad_arguments_are_told(argv, told, capsys):
    with pytest.raises(SystemExit):
        overhead.main(argv)
    assert told in capsys.readouterr().err
