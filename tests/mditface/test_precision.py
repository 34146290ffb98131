"""What the cache rounds: each number once, from sums in float32, in every computation type (docs/design/mditface.md,
sections 6.3 and 8.1)."""
import pytest
import torch

from mditface.mdit.mditface.cache import StaticEntry, quantize, restore
from mditface.mdit.mditface.entries import make_key_bias, merge_entry
from mditface.mdit.mditface.tokens import MaskTokens, find_flat_regions, merge_leaves
from mditface.mdit.shared.windows import ProxyPool
from mditface.tests.mditface import tiny

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
SIDE = 128  # of a mask's grid at 2048 px: leaves of up to 256 tokens


def keys(dtype: torch.dtype, tokens: int, mean: float = 0.0) -> torch.Tensor:
    """Keys whose channels have very different sizes; in bfloat16 the largest number often lies between two levels."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(-3, 2, 32)
    return ((torch.randn(1, 2, tokens, 32, generator=generator) + mean) * sizes).to(dtype)


def relative_error(x: torch.Tensor, true: torch.Tensor) -> float:
    true = true.double()
    return ((x.double() - true).norm() / true.norm()).item()


@TYPES
def test_eight_bits_are_within_half_a_level(dtype):
    x = keys(dtype, 200)
    levels, scale = quantize(x)
    assert scale.dtype == torch.float32
    assert levels.min() >= -127 and levels.abs().amax(2).eq(127).all()  # nothing wraps around
    error = (restore(levels, scale, torch.float32) - x.float()).abs()
    assert (error <= 0.5001 * x.float().abs().amax(2, keepdim=True) / 127).all()


@TYPES
def test_an_entry_in_eight_bits_has_the_error_of_eight_bits(dtype):
    x = keys(dtype, 200)
    entry = StaticEntry([(x, -x)], None, eight_bit=True)
    for found, true in zip(entry[0], (x, -x)):
        assert found.dtype == dtype
        assert relative_error(found, true) < 0.012
        largest = true.double().abs().amax(2, keepdim=True)
        assert ((found.double() - true.double()).abs() / largest).max() < 0.5001 / 127 + torch.finfo(dtype).eps


@TYPES
def test_channels_of_zeros_stay_zero(dtype):
    x = keys(dtype, 20)
    x[..., 3] = 0
    x[..., 4] = torch.finfo(dtype).tiny
    levels, scale = quantize(x)
    assert (scale >= torch.finfo(torch.float32).tiny).all()  # a smaller one is zero on a device that flushes
    found = restore(levels, scale, dtype)
    assert found.isfinite().all() and found[..., 3].eq(0).all()


def flat_tokens() -> MaskTokens:
    classes = torch.ones(SIDE, SIDE, dtype=torch.int16)
    classes[:, 37:] = 2  # leaves of several sizes
    axis = torch.arange(float(SIDE))
    return MaskTokens(torch.zeros(1, SIDE ** 2, 1), (SIDE, SIDE), axis, axis, (SIDE, SIDE), classes.view(1, -1))


def true_means(x: torch.Tensor, leaves: torch.Tensor) -> torch.Tensor:
    x = x.double()
    counts = leaves.bincount().double().view(-1, 1)
    return x.new_zeros(*x.shape[:-2], len(counts), x.shape[-1]).index_add(-2, leaves, x) / counts


def rotate(x: torch.Tensor, pe: torch.Tensor) -> torch.Tensor:
    """x (b, H, M, D) by matrices (1, 1, M, D/2, 2, 2), in float64."""
    pairs = x.double().unflatten(-1, (-1, 2)).unsqueeze(-1)
    return (pe.double() @ pairs).flatten(-3)


@TYPES
def test_means_of_leaves_are_rounded_once(dtype):
    tokens = flat_tokens()
    leaves = find_flat_regions(tokens.classes, tokens.grid)
    assert leaves.bincount().max() == 256 and len(leaves.bincount().unique()) == 3
    x = keys(dtype, SIDE ** 2, mean=3.0)
    found = merge_leaves(x, leaves)
    assert found.dtype == torch.float32
    assert relative_error(found, true_means(x, leaves)) < 1e-6
    entry = merge_entry([(x, x)], tokens, lambda positions: None, eight_bit=False)
    for merged in entry[0]:
        assert merged.dtype == dtype
        true = true_means(x, leaves)
        assert ((merged.double() - true).abs() <= 0.51 * torch.finfo(dtype).eps * true.abs() + 1e-6 * true.abs()).all()


@TYPES
def test_rotated_keys_are_merged_with_the_error_of_one_rounding(dtype):
    tokens = flat_tokens()
    leaves = find_flat_regions(tokens.classes, tokens.grid)
    net = tiny.network(tiny.config(width=64))

    def rotation(positions):
        return net.encode_positions(positions, {})[1]
    x = keys(dtype, SIDE ** 2, mean=3.0)
    turn = rotation(tokens.list_positions())
    unturned = rotate(x, turn.transpose(-1, -2))
    true = rotate(true_means(unturned, leaves), rotation(merge_leaves(tokens.list_positions(), leaves)))
    entry = merge_entry([(x, x)], tokens, rotation, eight_bit=False)
    assert relative_error(entry[0][0], true) < 0.5 * torch.finfo(dtype).eps + 2e-6


@TYPES
def test_a_bias_is_not_rounded_to_the_computation_type(dtype):
    tokens = flat_tokens()
    leaves = find_flat_regions(tokens.classes, tokens.grid)
    x = keys(dtype, SIDE ** 2)
    entry = merge_entry([(x, x)], tokens, lambda positions: None, eight_bit=False)
    torch.testing.assert_close(entry.bias[0], leaves.bincount().float().log())
    torch.testing.assert_close(make_key_bias(entry, 0.3)[0], (leaves.bincount() * 0.3).log())
    bias = make_key_bias(StaticEntry([(x, x)], None, False), 0.3)
    torch.testing.assert_close(bias, torch.full((1, SIDE ** 2), 0.3).log())


def test_a_bias_fetches_no_block(monkeypatch):
    x = keys(torch.float32, 4)
    entry = StaticEntry([(x, x)], None, eight_bit=True)
    monkeypatch.setattr(StaticEntry, "fetch", None)
    torch.testing.assert_close(make_key_bias(entry, 0.5), torch.full((1, 4), 0.5).log())


@TYPES
def test_proxies_average_in_float32(dtype):
    """In bfloat16 a group of 300 would count as 300 or 302 members."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(1, 600, 8, generator=generator) + 3).to(dtype)
    real = torch.ones(2, 300, 1, dtype=dtype)
    real[1, 293:] = 0
    found = ProxyPool(torch.arange(600), real, 300).average(x)
    assert found.dtype == dtype
    true = torch.stack((x.double()[0, :300].mean(0), x.double()[0, 300:593].mean(0)))[None]
    assert ((found.double() - true).abs() <= 0.51 * torch.finfo(dtype).eps * true.abs() + 1e-6).all()


def test_an_entry_holds_no_more_than_it_counts():
    """Keys and values are often views of one larger tensor."""
    qkv = torch.randn(1, 16, 3, 2, 8)
    _, k, v = qkv.permute(2, 0, 3, 1, 4)
    entry = StaticEntry([(k, v)], None, eight_bit=False)
    held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in entry.blocks[0]}
    assert sum(held.values()) == entry.nbytes
    assert torch.equal(entry[0][0], k) and torch.equal(entry[0][1], v)
