"""The network: rows of a batch, sizes, padding, text, and patches of other packs."""
import dataclasses

import pytest
import torch

import comfy.ldm.common_dit
from bench.costs import measure
from comfy.patcher_extension import WrappersMP
from mditface.mdit.pt_dit import model as network_module
from mditface.mdit.pt_dit.config import PTDiTSettings
from mditface.mdit.pt_dit.layers import chain_linears
from mditface.mdit.pt_dit.model import OPTIONS_KEY
from mditface.mdit.shared.windows import build_layout
from mditface.tests.pt_dit.tiny import CONFIG, network, normal

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

TOLERANCE = dict(rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def net():
    return network()


def run(net, x, t=500.0, text=None, mask=None, settings=None, **options):
    text = normal(len(x), 6, CONFIG.caption, seed=1) if text is None else text
    options |= {} if settings is None else {OPTIONS_KEY: settings}
    times = torch.as_tensor(t).expand(len(x))
    return net(x, times, context=text, attention_mask=mask, transformer_options=options)


@pytest.mark.parametrize("size", [(16, 24), (18, 22), (24, 32)])
def test_items_of_a_batch_are_independent(net, size):
    x, text, times = normal(3, 4, *size), normal(3, 6, CONFIG.caption), torch.tensor([900.0, 500.0, 10.0])
    together = run(net, x, times, text)
    for i in range(3):
        torch.testing.assert_close(together[i:i + 1], run(net, x[i:i + 1], times[i:i + 1], text[i:i + 1]), **TOLERANCE)


@pytest.mark.parametrize("more", [0, 1])
def test_two_matrices_become_one_where_tokens_outnumber_the_width(net, more):
    d, block = CONFIG.width, net.transformer_blocks[0]
    first, second = block.attn3.to_out[0], block.linear_2
    x, gate = normal(2, d + more, d), normal(2, 1, d, seed=1)
    expected = second(gate * first(x))
    torch.testing.assert_close(chain_linears(x, first, gate, second), expected, **TOLERANCE)
    rows = 2 * (d + 1 + d) if more else 2 * (d + d)  # the bias, a vector, is not counted
    assert measure.count_flops(lambda: chain_linears(x, first, gate, second)) == 2 * rows * d * d


def test_a_layer_with_hooks_is_called(net):
    layers = [layer for block in net.transformer_blocks for layer in (
        block.linear_1_visual, block.linear_2, block.attn3.to_out[0], block.pvisual_attn2.to_out[0])]
    x, seen = normal(1, 4, 24, 32), []
    expected = run(net, x)
    hooks = [layer.register_forward_hook(lambda layer, args, out: seen.append(layer)) for layer in layers]
    hooked = run(net, x)
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(layers)
    torch.testing.assert_close(hooked, expected, **TOLERANCE)


def test_sizes_in_turn_agree_with_fresh_networks():
    net = network()
    for size in ((16, 16), (32, 8), (8, 32), (20, 18), (16, 16)):
        x = normal(1, 4, *size)
        torch.testing.assert_close(run(net, x), run(network(), x), rtol=0, atol=0)


@pytest.mark.parametrize("height, width", [(13, 16), (16, 9), (15, 15), (25, 37)])
def test_an_odd_size_is_padded_as_the_host_pads_and_cut_again(net, height, width):
    x = normal(2, 4, height, width)
    padded = comfy.ldm.common_dit.pad_to_patch_size(x, (CONFIG.patch, CONFIG.patch))
    assert torch.equal(run(net, x), run(net, padded)[..., :height, :width])


def test_an_image_is_a_video_of_one_frame(net):
    x = normal(1, 4, 16, 24)
    assert torch.equal(run(net, x), run(net, x.unsqueeze(2)).squeeze(2))


def test_frames_need_not_fill_their_window(net):
    settings = PTDiTSettings((2, 4, 4))
    assert run(net, normal(1, 4, 3, 16, 16), settings=settings).shape == (1, 4, 3, 16, 16)


def empty_slots(partition):
    empty = torch.ones(len(partition.token_of_slot), dtype=torch.bool)
    empty[partition.slot_of_token] = False
    return empty


@pytest.mark.parametrize("grid, proxies", [((1, 9, 6), (1, 1)), ((1, 5, 11), (2, 2)), ((3, 4, 7), (1, 4)),
                                           ((1, 13, 14), (1, 1))])
def test_tokens_in_empty_slots_change_nothing(net, grid, proxies, monkeypatch):
    settings = PTDiTSettings((1 + (grid[0] > 1), 4, 4), proxies)
    x = normal(1, 4, grid[0], 2 * grid[1], 2 * grid[2])

    def scrambled(*args):
        layout = build_layout(*args)
        for name in ("plain", "shifted"):
            partition = getattr(layout, name)
            empty = empty_slots(partition)
            assert empty.any()
            others = torch.randint(len(partition.slot_of_token), (int(empty.sum()),))
            tokens = partition.token_of_slot.masked_scatter(empty, others)
            layout = layout._replace(**{name: partition._replace(token_of_slot=tokens)})
        index = layout.pool.index.view(-1, layout.pool.members)
        index = torch.where(layout.pool.real[..., 0] == 0, 0, index)
        return layout._replace(pool=layout.pool._replace(index=index.flatten()))
    expected = run(net, x, settings=settings)
    monkeypatch.setattr(network_module, "build_layout", scrambled)
    assert torch.equal(run(net, x, settings=settings), expected)


def test_masks_that_forbid_nothing_change_nothing(net, monkeypatch):
    """The path for windows that do not fit, taken where they do."""
    x = normal(1, 4, 16, 24)
    expected = run(net, x)

    def padded(grid, window, proxies, like):
        layout = build_layout(grid, window, proxies, like)
        assert layout.plain.bias is None and layout.pool.real is None
        count = len(layout.plain.token_of_slot) // layout.plain.slots
        real = like.new_ones(len(layout.pool.index) // layout.pool.members, layout.pool.members, 1)
        return layout._replace(plain=layout.plain._replace(bias=like.new_zeros(count, *[layout.plain.slots] * 2)),
                               pool=layout.pool._replace(real=real))
    monkeypatch.setattr(network_module, "build_layout", padded)
    torch.testing.assert_close(run(net, x), expected, **TOLERANCE)


def network_with_zeros(*names):
    net = network()
    for block in net.transformer_blocks:
        for name in names:
            getattr(block, name).weight.zero_()
            getattr(block, name).bias.zero_()
    return net


def changed_windows(net):
    """Which windows (rows, columns) of the output change with the latent of window (0, 1)."""
    x = normal(1, 4, 24, 24)
    other = x.clone()
    other[..., :8, 8:16] += 1
    change = (run(net, x) - run(net, other)).abs().amax((0, 1))
    return (change.unflatten(0, (3, 8)).unflatten(2, (3, 8)).amax((1, 3)) > 1e-6).tolist()


def test_windows_see_each_other_only_through_proxies_and_shifted_windows():
    own = [[row == 0 and column == 1 for column in range(3)] for row in range(3)]
    assert changed_windows(network_with_zeros("linear_1_visual", "linear_2")) == own
    assert changed_windows(network_with_zeros("linear_2")) == [[True] * 3] * 3
    assert changed_windows(network_with_zeros("linear_1_visual")) != own


@pytest.mark.parametrize("settings", [PTDiTSettings((1, 2, 8)), PTDiTSettings((1, 4, 4), (2, 4)),
                                      PTDiTSettings((1, 5, 3))])
def test_one_network_serves_any_windows(net, settings):
    x = normal(1, 4, 16, 16)
    assert not torch.allclose(run(net, x, settings=settings), run(net, x), atol=1e-4)


def test_position_modes_differ_on_grids_that_are_not_square(net):
    for size, same in (((16, 16), True), ((16, 24), False)):
        x = normal(1, 4, *size)
        found = [run(net, x, settings=dataclasses.replace(CONFIG.settings, positions=mode))
                 for mode in ("reference", "rowcol")]
        assert torch.equal(*found) is same


def test_masked_text_is_not_read(net):
    x, text = normal(1, 4, 16, 16), normal(1, 6, CONFIG.caption, seed=2)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    short = run(net, x, text=text[:, :3])
    torch.testing.assert_close(run(net, x, text=text, mask=mask), short, **TOLERANCE)
    torch.testing.assert_close(run(net, x, text=text[:, :3].repeat(1, 4, 1)), short, **TOLERANCE)
    assert not torch.allclose(run(net, x, text=text), short, atol=1e-4)


def test_one_text_token_is_read_as_two_equal_ones(net):
    x, text = normal(2, 4, 16, 16), normal(2, 1, CONFIG.caption)
    torch.testing.assert_close(run(net, x, text=text), run(net, x, text=text.repeat(1, 2, 1)), **TOLERANCE)


@pytest.mark.parametrize("shape, message", [((1, 16, 16, 16), "16 channels, PT-DiT works on 4"),
                                         ((1, 4, 6, 16), "3 rows and 8 columns .* below one window of .* 4 rows")])
def test_latents_that_do_not_fit_are_refused(net, shape, message):
    with pytest.raises(ValueError, match=f"latent_image: .*{message}"):
        run(net, normal(*shape))


def test_windows_of_frames_need_frames(net):
    with pytest.raises(ValueError, match="1 frames, .* below one window of 2 frames"):
        run(net, normal(1, 4, 16, 16), settings=PTDiTSettings((2, 4, 4)))


@pytest.mark.parametrize("proxies", [(3, 1), (1, 8), (0, 1)])
def test_proxies_must_divide_the_window(proxies):
    with pytest.raises(ValueError, match="proxy_(rows|columns): .* 1, 2, 4"):
        PTDiTSettings((1, 4, 4), proxies)


def test_block_patches_and_wrappers_are_called(net):
    x, seen = normal(1, 4, 16, 16), []

    def replace(args, extra):
        seen.append(args["transformer_options"]["block_index"])
        return extra["original_block"](args)

    def after(args):
        seen.append(("after", args["block_index"]))
        return {"img": args["img"], "txt": args["txt"]}
    expected = run(net, x)
    assert torch.equal(run(net, x, patches_replace={"dit": {("double_block", 1): replace}},
                           patches={"double_block": [after]}), expected)
    assert seen == [("after", 0), 1, ("after", 1)]
    wrappers = {WrappersMP.DIFFUSION_MODEL: {"test": [lambda executor, *args, **kwargs: -executor(*args, **kwargs)]}}
    assert torch.equal(run(net, x, wrappers=wrappers), -expected)


def test_an_attention_override_sees_every_attention(net):
    seen = []

    def override(function, q, k, v, heads, *args, **kwargs):
        seen.append((q.shape[:2], k.shape[1]))
        return function(q, k, v, heads, *args, **kwargs)
    run(net, normal(1, 4, 16, 16), optimized_attention_override=override)
    assert seen == 2 * [((1, 4), 4), ((1, 64), 4), ((4, 16), 16), ((4, 16), 16), ((1, 64), 6)]
