"""Counts of operations: the spec's integers, and what an operation counter sees."""
import pytest
import torch

from bench.costs import measure
from mditface.mdit.pt_dit import cost
from mditface.mdit.pt_dit.config import PTDiTConfig, Setting
from mditface.mdit.pt_dit.model import OPTIONS_KEY
from mditface.tests.pt_dit.tiny import CONFIG, network, normal

FULL = PTDiTConfig(width=1152, depth=28, heads=16, caption=4096)
# Pixels, side of the window, tokens, proxies, and multiply-adds of a block of PT-DiT, PixArt and DiT (spec section 11).
SPEC = [
    (256, 2, 256, 64, 8684568576, 5556142080, 4235821056),
    (512, 4, 1024, 64, 31645237248, 22443982848, 18731335680),
    (1024, 8, 4096, 64, 124337258496, 117174435840, 103892484096),
    (2048, 8, 16384, 256, 503117512704, 930961686528, 879402516480),
    (2048, 16, 16384, 64, 508694888448, 930961686528, 879402516480),
]


@pytest.mark.parametrize("pixels, side, N, M, ours, pixart, dit", SPEC)
def test_the_integers_of_the_spec(pixels, side, N, M, ours, pixart, dit):
    sizes = cost.sizes_of((1, pixels // 16, pixels // 16), Setting((1, side, side)), 200)
    assert (sizes.N, sizes.M) == (N, M)
    assert sum(cost.proxy_block(1152, *sizes).values()) == ours
    assert (cost.pixart_block(1152, N, 200), cost.dit_block(1152, N)) == (pixart, dit)


@pytest.mark.parametrize("grid, setting", [
    ((1, 8, 8), Setting((1, 4, 4))), ((1, 8, 8), Setting((1, 4, 4), (2, 2))), ((1, 7, 9), Setting((1, 4, 4), (4, 2))),
    ((3, 5, 8), Setting((2, 4, 4)))])
def test_the_network_costs_what_is_counted(grid, setting):
    net, text = network(), 6
    latent = normal(1, 4, grid[0], 2 * grid[1], 2 * grid[2])
    counted = measure.flops(lambda: net(latent, torch.tensor([500.0]), context=normal(1, text, CONFIG.caption),
                                        transformer_options={OPTIONS_KEY: setting}))
    sizes = cost.sizes_of(grid, setting, text)
    blocks = CONFIG.depth * sum(cost.proxy_block(CONFIG.width, *sizes).values())
    assert counted == 2 * (blocks + cost.outside(CONFIG, sizes.N, text))


def test_where_it_breaks_even():
    assert cost.break_even(FULL, FULL.setting, 200) == 72 * 16
    assert cost.break_even(FULL, Setting((1, 512, 512)), 200) is None  # a window costs as much as all
    assert "Not cheaper" in cost.report(FULL, Setting((1, 512, 512)), 4096, 4096, 1, 200)[0]


def test_the_report_names_the_numbers():
    text, total = cost.report(FULL, FULL.setting, 1024, 1024, 1, 200)
    assert total == 28 * 124337258496 + cost.outside(FULL, 4096, 200)
    for part in ("4096 tokens, 64 proxies", "124.34 G", "117.17 G", "PT-DiT +6.1 %", "103.89 G", "PT-DiT +19.7 %",
                 "from 1152 px squares on"):
        assert part in text
    assert "PT-DiT -46.0 %" in cost.report(FULL, FULL.setting, 2048, 2048, 1, 200)[0]


def test_windows_that_do_not_fit_cost_their_empty_slots():
    sizes = cost.sizes_of((1, 9, 8), Setting((1, 8, 8), (2, 2)), 200)
    assert sizes == (72, 128, 64, 6, 200)
