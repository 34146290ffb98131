"""Reading masks: merged attentions equal one attention over all keys (docs/design/mditface.md,
sections 5.3, 6.4 and 8)."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management
from comfy.ldm.modules.attention import attention_pytorch
from mditface.mdit.mditface import local_window
from mditface.mdit.mditface.attention import (
    AttentionCall, MaskRows, ReadPattern, attend_masks, has_lse_kernel, host_uses_pytorch)
from mditface.tests.mditface.runs import TOLERANCE

HEADS, D, TEXT = 2, 8, 3


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention(q, k, v, mask=None):
    return attention_pytorch(q, k, v, HEADS, mask=mask, skip_reshape=True)


def plain(q, k, v, bias):
    """Softmax attention with a bias on the logits, (B, T, H * D), in twice the precision."""
    logits = q.double() @ k.double().transpose(2, 3) / D ** 0.5 + bias.double()
    return (logits.softmax(-1) @ v.double()).transpose(1, 2).flatten(2).float()


def queries(batch, grid, seed=0):
    length = TEXT + grid[0] * grid[1]
    return [draw(batch, HEADS, length, D, seed=seed + i) for i in range(3)]


def mask_keys(b, count):
    return draw(b, HEADS, count, D, seed=7), draw(b, HEADS, count, D, seed=8)


def read(qkv, rows, pattern, fused, mask=None):
    return attend_masks(AttentionCall(*qkv, mask, attention), rows, 0, pattern, fused)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("text_reads", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_all_queries_read_all_keys(fused, b, text_reads, biased):
    grid, batch, M = (3, 4), 4, 5
    q, k, v = queries(batch, grid)
    mask_k, mask_v = mask_keys(b, M)
    bias = draw(b, M, seed=9) if biased else None
    out = read((q, k, v), [MaskRows(slice(0, batch), [(mask_k, mask_v)], bias)], ReadPattern(TEXT, text_reads), fused)
    own, n = q.shape[2], batch // b
    logits = torch.zeros(batch, 1, own, own + M)
    if biased:
        logits[..., own:] = bias.repeat(n, 1)[:, None, None]
    if not text_reads:
        logits[:, :, :TEXT, own:] = -torch.inf
    keys, values = (torch.cat((x, m.repeat(n, 1, 1, 1)), 2) for x, m in ((k, mask_k), (v, mask_v)))
    expected = plain(q, keys, values, logits)
    torch.testing.assert_close(out, expected, **TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", [(2, 15, 15), (15, 15), (2, 1, 15, 15), (2, HEADS, 15, 15)])
@pytest.mark.parametrize("boolean", [True, False])
def test_an_attention_mask_stays_on_the_own_keys(fused, shape, boolean):
    q, k, v = queries(2, (3, 4))
    mask_k, mask_v = mask_keys(1, 5)
    mask = draw(*shape, seed=4)
    mask = mask > -1 if boolean else mask
    out = read((q, k, v), [MaskRows(slice(0, 2), [(mask_k, mask_v)])], ReadPattern(TEXT), fused, mask)
    bias = torch.zeros(shape).masked_fill(~mask, -torch.inf) if boolean else mask
    bias = bias[:, None] if bias.ndim == 3 else bias.view((1,) * (4 - bias.ndim) + bias.shape)
    bias = torch.nn.functional.pad(bias, (0, 5))
    keys, values = (torch.cat((x, m.expand(2, -1, -1, -1)), 2) for x, m in ((k, mask_k), (v, mask_v)))
    expected = plain(q, keys, values, bias)
    torch.testing.assert_close(out, expected, **TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
def test_rows_read_their_own_mask_or_none(fused):
    q, k, v = queries(3, (2, 2))
    first, last = mask_keys(1, 4), [x + 1 for x in mask_keys(1, 6)]
    rows = [MaskRows(slice(0, 1), [first]), MaskRows(slice(1, 2), None), MaskRows(slice(2, 3), [last])]
    out = read((q, k, v), rows, ReadPattern(TEXT), fused)
    for i, extra in enumerate((first, None, last)):
        keys, values = ((x[i:i + 1] if extra is None else torch.cat((x[i:i + 1], e), 2))
                        for x, e in zip((k, v), extra or (None, None)))
        torch.testing.assert_close(out[i:i + 1], plain(q[i:i + 1], keys, values, torch.zeros(1)), **TOLERANCE)


def near(i, j, radius):
    first = i // local_window.TILE * local_window.TILE
    return first - radius <= j < first + local_window.TILE + radius


@settings(max_examples=40, deadline=None, derandomize=True)
@given(grid=st.tuples(st.integers(1, 11), st.integers(1, 11)), radius=st.integers(1, 5),
       sizes=st.sampled_from([(1, 1), (2, 1), (2, 2), (4, 2)]), fused=st.booleans(), extra=st.integers(0, 2),
       strength=st.sampled_from([1.0, 0.3]))
def test_a_window_is_what_lies_around_the_tile(grid, radius, sizes, fused, extra, strength):
    (h, w), (batch, b) = grid, sizes
    q, k, v = ([torch.cat((x, draw(batch, HEADS, extra, D, seed=3)), 2) for x in queries(batch, grid)])
    mask_k, mask_v = mask_keys(b, h * w)
    strips = [local_window.cut_strips(x, grid, radius) for x in (mask_k, mask_v)]
    bias = local_window.make_strip_bias(grid, radius, HEADS, mask_k) + math.log(strength)
    out = read((q, k, v), [MaskRows(slice(0, batch), [strips], bias)], ReadPattern(TEXT, False, radius, grid), fused)
    own = q.shape[2]
    logits = torch.full((own, own + h * w), -torch.inf)
    logits[:, :own] = 0
    for i in range(h * w):
        for j in range(h * w):
            if near(i // w, j // w, radius) and near(i % w, j % w, radius):
                logits[TEXT + i, own + j] = math.log(strength)
    keys, values = (torch.cat((x, m.repeat(batch // b, 1, 1, 1)), 2) for x, m in ((k, mask_k), (v, mask_v)))
    torch.testing.assert_close(out, plain(q, keys, values, logits), **TOLERANCE)
    torch.testing.assert_close(local_window.join_strips(strips[0], grid, radius), mask_k)


def test_strips_overlap_in_memory_and_are_not_copied():
    grid, radius = (8, 8), 2
    strips = local_window.cut_strips(draw(1, HEADS, 64, D), grid, radius)
    views = local_window.view_windows(strips[0], local_window.count_tiles(grid)[0], radius)
    assert views.untyped_storage().data_ptr() == strips.untyped_storage().data_ptr()
    assert views.shape == (2, 2 * HEADS, 64, D)
    assert strips.numel() == 2 * 8 * 12 * HEADS * D


@pytest.mark.parametrize("radius", [0, 1])
def test_gradients_reach_the_masks_keys(radius):
    grid = (4, 5)
    with torch.inference_mode(False), torch.enable_grad():
        q, k, v = (x.clone() for x in queries(1, grid))
        mask_k, mask_v = (x.clone().requires_grad_() for x in mask_keys(1, 20))
        kv = [local_window.cut_strips(x, grid, radius) for x in (mask_k, mask_v)] if radius else [mask_k, mask_v]
        bias = local_window.make_strip_bias(grid, radius, HEADS, q) if radius else None
        pattern = ReadPattern(TEXT, not radius, radius, grid)
        out = read((q, k, v), [MaskRows(slice(0, 1), [kv], bias)], pattern, fused=True)
        out.square().sum().backward()
    assert mask_k.grad.abs().amin(dim=(0, 1, 3)).min() > 0 and mask_v.grad.abs().amin(dim=(0, 1, 3)).min() > 0
    torch.testing.assert_close(out.detach(), read((q, k, v), [MaskRows(slice(0, 1), [[x.detach() for x in kv]], bias)],
                                                  pattern, fused=True), **TOLERANCE)


@pytest.mark.parametrize("chosen", ["pytorch", "sage", "flash", "xformers", "none"])
def test_kernels_with_log_sum_exp_stand_in_for_the_hosts_plain_attention_only(chosen, monkeypatch):
    """The host prefers every other attention to PyTorch's, which it leaves enabled."""
    for name in ("sage", "flash", "xformers", "pytorch"):
        enabled = chosen != "none" if name == "pytorch" else name == chosen
        monkeypatch.setattr(comfy.model_management, f"{name}_attention_enabled" if name != "xformers"
                            else "xformers_enabled", lambda enabled=enabled: enabled)
    assert host_uses_pytorch() == (chosen == "pytorch")


def test_the_kernels_need_no_gradient():
    with torch.inference_mode(False), torch.enable_grad():
        assert not has_lse_kernel(draw(1, 1, 1, 8), biased=True)
    assert has_lse_kernel(draw(1, 1, 1, 8), biased=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("radius", [0, 3])
@pytest.mark.parametrize("biased", [True, False])
def test_fused_kernels_on_cuda(dtype, radius, biased):
    grid, M = (10, 11), 110
    cuda = dict(device="cuda", dtype=dtype)
    qkv = [x.repeat(1, 1, 1, 8).to(**cuda) for x in queries(2, grid)]
    mask_k, mask_v = (x.repeat(1, 1, 1, 8).to(**cuda) for x in mask_keys(1, M))
    kv = [local_window.cut_strips(x, grid, radius) for x in (mask_k, mask_v)] if radius else [mask_k, mask_v]
    bias = draw(1, M).to(**cuda) if biased else None
    bias = local_window.make_strip_bias(grid, radius, HEADS, mask_k) if radius else bias
    rows, pattern = [MaskRows(slice(0, 2), [kv], bias)], ReadPattern(TEXT, not radius, radius, grid)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(read(qkv, rows, pattern, True), read(qkv, rows, pattern, False), rtol=0, atol=tolerance)
