"""Counts of operations: published figures, and an operation counter."""
import pytest
import torch

from bench.costs import measure
from mditface.mdit.pt_dit import cost
from mditface.mdit.pt_dit.config import PTDiTConfig, PTDiTSettings
from mditface.mdit.pt_dit.model import OPTIONS_KEY
from mditface.tests.pt_dit.tiny import CONFIG, network, normal

FULL = PTDiTConfig(width=1152, depth=28, heads=16, caption=4096)
# Pixels, side of the window, tokens, proxies, multiply-adds of a block of PT-DiT, PixArt and DiT.
# See docs/design/pt-dit.md, section 11.
COUNTS = [
    (256, 2, 256, 64, 8684568576, 5556142080, 4235821056),
    (512, 4, 1024, 64, 31645237248, 22443982848, 18731335680),
    (1024, 8, 4096, 64, 124337258496, 117174435840, 103892484096),
    (2048, 8, 16384, 256, 503117512704, 930961686528, 879402516480),
    (2048, 16, 16384, 64, 508694888448, 930961686528, 879402516480),
]


@pytest.mark.parametrize("pixels, side, N, M, ours, pixart, dit", COUNTS)
def test_counts_of_blocks(pixels, side, N, M, ours, pixart, dit):
    counts = cost.count_tokens((1, pixels // 16, pixels // 16), PTDiTSettings((1, side, side)), 200)
    assert (counts.N, counts.M) == (N, M)
    assert sum(cost.count_proxy_block(1152, counts).values()) == ours
    assert (cost.count_pixart_block(1152, N, 200), cost.count_dit_block(1152, N)) == (pixart, dit)


@pytest.mark.parametrize("grid, settings", [
    ((1, 8, 8), PTDiTSettings((1, 4, 4))), ((1, 8, 8), PTDiTSettings((1, 4, 4), (2, 2))),
    ((1, 7, 9), PTDiTSettings((1, 4, 4), (4, 2))), ((3, 5, 8), PTDiTSettings((2, 4, 4)))])
def test_counts_agree_with_an_operation_counter(grid, settings):
    net, text = network(), 6
    latent = normal(1, 4, grid[0], 2 * grid[1], 2 * grid[2])
    counted = measure.count_flops(lambda: net(latent, torch.tensor([500.0]), context=normal(1, text, CONFIG.caption),
                                              transformer_options={OPTIONS_KEY: settings}))
    counts = cost.count_tokens(grid, settings, text)
    blocks = CONFIG.depth * sum(cost.count_proxy_block(CONFIG.width, counts).values())
    assert counted == 2 * (blocks + cost.count_outside(CONFIG, counts.N, text))


def test_break_even():
    assert cost.find_break_even(FULL, FULL.settings, 200) == 72 * 16
    assert cost.find_break_even(FULL, PTDiTSettings((1, 512, 512)), 200) is None  # one window is full attention
    text, _ = cost.report_cost(FULL, PTDiTSettings((1, 512, 512)), cost.compute_token_grid(FULL, 4096, 4096, 1), 200)
    assert "Not cheaper" in text


def test_the_report_holds_the_counts():
    text, total = cost.report_cost(FULL, FULL.settings, cost.compute_token_grid(FULL, 1024, 1024, 1), 200)
    assert total == 28 * 124337258496 + cost.count_outside(FULL, 4096, 200)
    for part in ("4096 tokens, 64 proxies", "124.34 G", "117.17 G", "PT-DiT +6.1 %", "103.89 G", "PT-DiT +19.7 %",
                 "for squares of 1152 px and more"):
        assert part in text
    grid = cost.compute_token_grid(FULL, 2048, 2048, 1)
    assert "PT-DiT -46.0 %" in cost.report_cost(FULL, FULL.settings, grid, 200)[0]


def test_empty_slots_of_windows_are_counted():
    counts = cost.count_tokens((1, 9, 8), PTDiTSettings((1, 8, 8), (2, 2)), 200)
    assert counts == (72, 128, 64, 6, 200)
