"""The network against its formulas (docs/design/mditface.md, section 3.3) in their plainest form, and as a host for
other people's patches."""
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from comfy.patcher_extension import WrappersMP
from mditface.mdit.mditface.attention import MaskRows
from mditface.mdit.mditface.tokens import place_tokens
from mditface.tests.mditface import tiny

CONFIGS = {
    "plain": {},
    "sincos": dict(pos="sincos"),
    "no qk norm": dict(qk_norm="none"),
    "text blind to the mask": dict(text_reads_mask=False),
    "palette tokens": dict(mask_tokenizer="vae_palette"),
    "lora on the image's weights": dict(mask_tokenizer="vae_palette", own_mask_weights=False, lora_rank=4,
                                        lora_alpha=2.0),
    "lora on own weights": dict(lora_rank=4, lora_alpha=2.0),
    "clean prediction": dict(prediction="clean"),
    "all at once": dict(pos="sincos", qk_norm="none", text_reads_mask=False, mask_tokenizer="vae_palette",
                        own_mask_weights=False, lora_rank=2, prediction="clean"),
}
SIGMA = 0.625


def plain_model(w, cfg, x, sigma, context, y, tokens=None):
    """The formulas for one latent (1, C, H, W), written without any of the pack's or the host's functions."""
    def linear(name, h, low_rank=None):
        weight = w[f"{name}.weight"]
        if low_rank is not None and f"{low_rank}.up.weight" in w:
            weight = weight + cfg.lora_alpha / cfg.lora_rank * w[f"{low_rank}.up.weight"] @ w[f"{low_rank}.down.weight"]
        return h @ weight.T + w[f"{name}.bias"]

    def norm(h):
        return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    def two_layers(name, h):
        return linear(f"{name}.2", F.silu(linear(f"{name}.0", h)))

    def vector(time, pooled):
        angle = 1000 * time * 10000 ** (-torch.arange(128) / 128)
        return two_layers("t_embed", torch.cat((angle.cos(), angle.sin()))) + two_layers("y_embed", pooled)

    def angles(count):
        place = torch.arange(gh * gw)
        freq = (cfg.rope_theta if cfg.pos == "rope2d" else 10000) ** (-torch.arange(count) / count)
        return (place // gw)[:, None] * freq, (place % gw)[:, None] * freq

    def placed(h):
        if cfg.pos == "rope2d":
            return h
        rows, cols = angles(cfg.width // 4)
        return h + torch.cat((rows.cos(), rows.sin(), cols.cos(), cols.sin()), -1)

    def rotated(q):
        if cfg.pos == "sincos":
            return q
        turn = torch.polar(torch.tensor(1.0), torch.cat(angles(cfg.head_dim // 4), -1).float())
        return torch.view_as_real(torch.view_as_complex(q.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)

    def rms(name, q):
        if cfg.qk_norm == "none":
            return q
        return q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]

    def softmax_attention(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(cfg.head_dim), -1) @ v

    def stream(name, h, vec, spatial, low_rank=None):
        lora = (lambda layer: f"{low_rank}.{layer}") if low_rank else (lambda layer: None)
        a1, b1, g1, a2, b2, g2 = linear(f"{name}.mod", F.silu(vec), lora("mod")).chunk(6)
        q, k, v = (z.unflatten(-1, (cfg.heads, -1)).transpose(0, 1)
                   for z in linear(f"{name}.qkv", (1 + b1) * norm(h) + a1, lora("qkv")).chunk(3, -1))  # (H, T, D)
        q, k = rms(f"{name}.q_norm", q), rms(f"{name}.k_norm", k)

        def finish(o):
            new = h + g1 * linear(f"{name}.proj", o.transpose(0, 1).flatten(1), lora("proj"))
            inner = F.gelu(linear(f"{name}.fc1", (1 + b2) * norm(new) + a2, lora("fc1")), approximate="tanh")
            return new + g2 * linear(f"{name}.fc2", inner, lora("fc2"))
        return (rotated(q), rotated(k), v, finish) if spatial else (q, k, v, finish)

    p = cfg.patch
    noisy = F.pad(x, (0, -x.shape[3] % p, 0, -x.shape[2] % p), mode="circular")
    gh, gw = noisy.shape[2] // p, noisy.shape[3] // p
    patches = noisy[0].unflatten(1, (gh, p)).unflatten(3, (gw, p)).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)
    X, P = placed(linear("x_embed", patches)), linear("text_embed", context[0])
    vec, constant = vector(sigma, y[0]), vector(0.0, torch.zeros(cfg.pooled_dim))
    M = None if tokens is None else placed(linear("mask_embed" if cfg.own_mask_weights else "x_embed", tokens[0]))
    for i in range(cfg.depth):
        qx, kx, vx, finish_x = stream(f"blocks.{i}.img", X, vec, True)
        qp, kp, vp, finish_p = stream(f"blocks.{i}.txt", P, vec, False)
        keys, values = torch.cat((kp, kx), 1), torch.cat((vp, vx), 1)
        all_keys, all_values = keys, values
        if tokens is not None:
            own = "msk" if cfg.own_mask_weights else "img"
            qm, km, vm, finish_m = stream(f"blocks.{i}.{own}", M, constant, True, f"blocks.{i}.msk_lora")
            all_keys, all_values = torch.cat((keys, km), 1), torch.cat((values, vm), 1)
            M = finish_m(softmax_attention(qm, km, vm))
        X = finish_x(softmax_attention(qx, all_keys, all_values))
        read = (all_keys, all_values) if cfg.text_reads_mask else (keys, values)
        P = finish_p(softmax_attention(qp, *read))
    shift, scale = linear("final.mod", F.silu(vec)).chunk(2)
    out = linear("final.linear", (1 + scale) * norm(X) + shift)
    out = out.view(gh, gw, -1, p, p).permute(2, 0, 3, 1, 4).reshape(noisy.shape)
    if cfg.prediction == "clean":
        out = (noisy - out) / max(sigma, 0.05)
    return out[..., :x.shape[2], :x.shape[3]]


def inputs(cfg, height=12, width=16, batch=1, seed=0) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    grid = -(-height // cfg.patch), -(-width // cfg.patch)

    def draw(*shape):
        return torch.randn(shape, generator=generator)
    return SimpleNamespace(
        x=draw(batch, cfg.in_channels, height, width), context=draw(batch, 5, cfg.text_dim),
        y=draw(batch, cfg.pooled_dim), tokens=draw(1, grid[0] * grid[1], cfg.mask_features),
        positions=torch.cartesian_prod(*(torch.arange(float(side)) for side in grid)))


def forward(net, given, masks=(), sigma=SIGMA, **transformer_options):
    t = torch.full((given.x.shape[0],), sigma)
    return net(given.x, t, given.context, given.y, mask_rows=masks, transformer_options=transformer_options)


def static_rows(net, given, rows=slice(None), bias=None) -> MaskRows:
    return MaskRows(rows, list(net.run_static_path(given.tokens, given.positions)), bias)


@pytest.fixture(scope="module")
def net():
    return tiny.network()


@pytest.fixture(scope="module")
def given():
    return inputs(tiny.CONFIG)


@pytest.mark.parametrize("sigma", [SIGMA, 0.1, 0.01])  # below 0.05 a velocity is no longer exact
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_network_follows_the_formulas(changes, sigma):
    cfg = tiny.config(**changes)
    net, given = tiny.network(cfg), inputs(cfg)
    weights = net.state_dict()
    expected = plain_model(weights, cfg, given.x, sigma, given.context, given.y, given.tokens)
    without = plain_model(weights, cfg, given.x, sigma, given.context, given.y)
    scale = expected.abs().max()
    assert (expected - without).abs().max() > 1e-3 * scale  # the mask says something
    torch.testing.assert_close(forward(net, given, [static_rows(net, given)], sigma) / scale, expected / scale,
                               rtol=0, atol=3e-5)
    torch.testing.assert_close(forward(net, given, sigma=sigma) / scale, without / scale, rtol=0, atol=3e-5)


@pytest.mark.parametrize("height, width", [(13, 10), (4, 4), (5, 3), (1, 9)])
def test_sizes_that_the_patch_does_not_divide(net, height, width):
    given = inputs(tiny.CONFIG, height + 3, width + 3)
    out = forward(net, given, [static_rows(net, given)])
    assert out.shape == given.x.shape
    expected = plain_model(net.state_dict(), net.config, given.x, SIGMA, given.context, given.y, given.tokens)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, CONFIGS["lora on the image's weights"], CONFIGS["lora on own weights"]])
def test_without_a_mask_nothing_of_the_mask_stream_is_used(changes):
    net = tiny.network(tiny.config(**changes))
    given = inputs(net.config)
    whole = forward(net, given)
    for module in (net, *net.blocks):
        for name in ("mask_embed", "msk", "msk_lora"):
            if hasattr(module, name):
                delattr(module, name)
    assert torch.equal(forward(net, given), whole)


def test_static_rows_do_not_depend_on_each_other(net, given):
    pair = torch.cat((given.tokens, given.tokens.flip(1)))
    both = list(net.run_static_path(pair, given.positions))
    for row in (0, 1):
        alone = net.run_static_path(pair[row:row + 1], given.positions)
        for (k, v), (k1, v1) in zip(both, alone, strict=True):
            torch.testing.assert_close(k[row:row + 1], k1)
            torch.testing.assert_close(v[row:row + 1], v1)


def test_one_static_pass_serves_every_time_and_text(net, given):
    """Rows of other latents, times and texts read the same keys as when each is computed alone."""
    rows = static_rows(net, given)
    several = inputs(net.config, batch=3, seed=1)
    times = torch.tensor([0.9, 0.5, 0.1])
    together = net(several.x, times, several.context, several.y, mask_rows=[rows])
    for i, sigma in enumerate(times.tolist()):
        expected = plain_model(net.state_dict(), net.config, several.x[i:i + 1], sigma, several.context[i:i + 1],
                               several.y[i:i + 1], given.tokens)
        torch.testing.assert_close(together[i:i + 1], expected, rtol=1e-4, atol=1e-4)


def test_the_last_block_computes_keys_and_values_only(net, given):
    calls = []
    handles = [layer.register_forward_hook(lambda *_, name=(i, name): calls.append(name))
               for i, block in enumerate(net.blocks) for name, layer in block.msk.named_children()]
    list(net.run_static_path(given.tokens, given.positions))
    for handle in handles:
        handle.remove()
    last = len(net.blocks) - 1
    assert {name for i, name in calls if i == last} <= {"mod", "qkv", "q_norm", "k_norm"}
    assert [name for i, name in calls if i == 0].count("proj") == 1
    assert len(calls) == len(set(calls))


def test_the_static_path_leaves_the_other_streams_alone(net, given):
    calls = []
    handles = [getattr(block, name).qkv.register_forward_hook(lambda *_: calls.append(name))
               for block in net.blocks for name in ("img", "txt")]
    list(net.run_static_path(given.tokens, given.positions))
    for handle in handles:
        handle.remove()
    assert calls == []


def test_rows_with_and_without_a_mask_in_one_batch(net, given):
    several = inputs(net.config, batch=3, seed=2)
    one, other = given.tokens, given.tokens.flip(1)
    kv = [list(net.run_static_path(tokens, given.positions)) for tokens in (one, other)]
    masks = [MaskRows(slice(0, 1), kv[0]), MaskRows(slice(1, 2), None), MaskRows(slice(2, 3), kv[1])]
    out = forward(net, several, masks)
    for i, tokens in enumerate((one, None, other)):
        row = [value[i:i + 1] for value in (several.context, several.y)]
        expected = plain_model(net.state_dict(), net.config, several.x[i:i + 1], SIGMA, *row, tokens)
        torch.testing.assert_close(out[i:i + 1], expected, rtol=1e-4, atol=1e-4)


def test_a_mask_batch_is_repeated_over_the_guidance_halves(net, given):
    several = inputs(net.config, batch=4, seed=3)
    pair = list(net.run_static_path(torch.cat((given.tokens, given.tokens.flip(1))), given.positions))
    swapped = [tuple(x.flip(0) for x in kv) for kv in pair]
    out = forward(net, several, [MaskRows(slice(0, 4), pair)])
    expected = forward(net, several, [MaskRows(slice(i, i + 1), [tuple(x[i % 2:i % 2 + 1] for x in kv) for kv in pair])
                                      for i in range(4)])
    torch.testing.assert_close(out, expected)
    assert not torch.allclose(out, forward(net, several, [MaskRows(slice(0, 4), swapped)]))


@pytest.mark.parametrize("text_reads_mask", [True, False])
def test_a_bias_counts_a_key_several_times(text_reads_mask, given):
    net = tiny.network(tiny.config(text_reads_mask=text_reads_mask))
    kv = list(net.run_static_path(given.tokens, given.positions))
    twice = [tuple(torch.cat((x, x), 2) for x in pair) for pair in kv]
    bias = torch.full((1, given.tokens.shape[1]), math.log(2))
    torch.testing.assert_close(forward(net, given, [MaskRows(slice(None), kv, bias)]),
                               forward(net, given, [MaskRows(slice(None), twice)]), rtol=1e-5, atol=1e-5)


def test_half_resolution_tokens_stand_between_the_image_tokens(net):
    """A mask token over 2 x 2 image tokens is rotated by the mean of their positions."""
    token, axis = torch.zeros(1, 1, net.config.mask_features), place_tokens(2, 1, 0, corner=False)
    keys = next(iter(net.run_static_path(token, torch.cartesian_prod(axis, axis))))[0]
    shifted = {"rope_options": dict(shift_x=0.5, shift_y=0.5)}
    expected = next(iter(net.run_static_path(token, torch.zeros(1, 2), shifted)))[0]
    torch.testing.assert_close(keys, expected)


def test_a_block_replacement_wraps_the_block(net, given):
    seen = []

    def patch(args, extra):
        seen.append((args["transformer_options"]["block_index"], sorted(args)))
        return extra["original_block"](args)
    replace = {"dit": {("double_block", i): patch for i in range(len(net.blocks))}}
    masks = [static_rows(net, given)]
    assert torch.equal(forward(net, given, masks, patches_replace=replace), forward(net, given, masks))
    assert seen == [(i, ["img", "pe", "transformer_options", "txt", "vec"]) for i in range(len(net.blocks))]


def test_a_block_replacement_can_skip_the_block(given):
    net = tiny.network()
    skip = {"dit": {("double_block", 1): lambda args, extra: {"img": args["img"], "txt": args["txt"]}}}
    skipped = forward(net, given, patches_replace=skip)
    whole = forward(net, given)
    del net.blocks[1]
    net.config = tiny.config(depth=2)
    assert torch.equal(forward(net, given), skipped)
    assert not torch.equal(whole, skipped)


def test_a_patch_after_the_blocks_changes_the_streams(net, given):
    positions = []

    def double(args):
        positions.append(args["block_index"])
        return {"img": args["img"] * 2, "txt": args["txt"]}

    def as_replacement(args, extra):
        out = extra["original_block"](args)
        return {"img": out["img"] * 2, "txt": out["txt"]}
    out = forward(net, given, patches={"double_block": [double]})
    assert positions == list(range(len(net.blocks)))
    replace = {"dit": {("double_block", i): as_replacement for i in range(len(net.blocks))}}
    assert torch.equal(out, forward(net, given, patches_replace=replace))


def test_a_wrapper_around_the_network_is_called(net, given):
    def negate(executor, x, timesteps, context, y, masks, transformer_options, **kwargs):
        return -executor(x, timesteps, context, y, masks, transformer_options, **kwargs)
    wrappers = {WrappersMP.DIFFUSION_MODEL: {"test": [negate]}}
    assert torch.equal(forward(net, given, wrappers=wrappers), -forward(net, given))


@pytest.mark.parametrize("text_reads_mask", [True, False])
def test_an_attention_override_sees_every_dynamic_attention(text_reads_mask, given):
    net = tiny.network(tiny.config(text_reads_mask=text_reads_mask))
    keys = []

    def override(function, q, k, v, heads, *args, **kwargs):
        keys.append((kwargs["transformer_options"]["block_index"], k.shape[2]))
        return function(q, k, v, heads, *args, **kwargs)
    masks = [static_rows(net, given)]
    keys.clear()
    out = forward(net, given, masks, optimized_attention_override=override)
    assert keys == [(i, 5 + 2 * given.tokens.shape[1]) for i in range(len(net.blocks))]  # one call, with all rows
    torch.testing.assert_close(out, forward(net, given, masks), rtol=0, atol=1e-5)
