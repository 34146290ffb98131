"""Proxies and windows as the image stream of a stand-alone MDiT (experimental)."""
import json
import math

import pytest
import torch
from safetensors.torch import load_file

import comfy.model_management
from mditface.mdit.mditface import host
from mditface.mdit.mditface.config import CONFIG_KEY, MDiTConfig
from mditface.mdit.mditface.proxy_stream import make_proxy_grid
from mditface.mdit.recipes.initialize import initialize_model
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import masked, run
from mditface.tests.mditface.test_model import forward, inputs, static_rows

CLOSE = dict(rtol=0, atol=1e-5)


def proxied(window, **changes):
    cfg = tiny.config(proxy_window=window, **changes)
    return tiny.network(cfg), inputs(cfg)


@pytest.mark.parametrize("changes", [{}, dict(pos="sincos"), dict(qk_norm="none")])
def test_a_proxy_for_each_token_is_attention_among_all(changes):
    """Windows of one token that change nothing, and proxies that have read nothing."""
    net, given = proxied(1, **changes)
    for block in net.blocks:
        width = net.config.width
        for layer in (block.proxy.mod, block.proxy.among.proj):
            layer.weight.zero_(), layer.bias.zero_()
        block.proxy.query.weight.copy_(block.img.qkv.weight[:width])
        block.proxy.query.bias.copy_(block.img.qkv.bias[:width])
    full = tiny.network(tiny.config(**changes))
    full.load_state_dict({name: weight for name, weight in net.state_dict().items() if ".proxy." not in name})
    for masks in ([], [static_rows(full, given)]):
        torch.testing.assert_close(forward(net, given, masks), forward(full, given, masks), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pos", ["rope2d", "sincos"])
def test_a_window_over_the_whole_picture_is_plain_self_attention(pos):
    """With empty slots, for the grid has 3 by 4 tokens."""
    net, given = proxied(5, pos=pos)
    stream, heads, width = net.blocks[0].proxy, net.config.heads, net.config.width
    stream.mod.weight.zero_()
    stream.mod.bias.zero_()
    stream.mod.bias[2 * width:3 * width] = 1  # the gate of the windows that are not shifted
    img = torch.randn(2, 12, width, generator=torch.Generator().manual_seed(3))

    def rotation(positions):
        return net.encode_positions(positions, {})[1]
    near = make_proxy_grid(5, (3, 4), img, given.positions, rotation)
    found = stream.read_windows(img, torch.zeros(2, width), near)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2)
               for x in stream.plain.qkv(torch.nn.functional.layer_norm(img, (width,), eps=1e-6)).chunk(3, -1))
    if pos == "rope2d":
        def turned(x):
            return torch.einsum("bhtdij,bhtdj->bhtdi", rotation(given.positions).expand(2, heads, -1, -1, -1, -1),
                                x.unflatten(-1, (-1, 2))).flatten(-2)
        q, k = turned(q), turned(k)
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(net.config.head_dim), -1)
    expected = img + stream.plain.proj((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_items_are_independent_and_sizes_free():
    net, _ = proxied(2)
    for size in ((12, 16), (9, 22), (4, 4)):
        given = inputs(net.config, *size, batch=3)
        together = forward(net, given, [static_rows(net, given)])
        for i in range(3):
            alone = type(given)(**vars(given) | {name: getattr(given, name)[i:i + 1] for name in ("x", "context", "y")})
            torch.testing.assert_close(together[i:i + 1], forward(net, alone, [static_rows(net, given)]), rtol=0,
                                       atol=1e-4)


def test_the_mask_is_read_by_every_image_token():
    net, given = proxied(2)
    change = (forward(net, given, [static_rows(net, given)]) - forward(net, given)).abs()
    assert change.amax(1).min() > 1e-5


def test_models_without_proxies_are_as_before():
    assert not any(".proxy." in name for name in tiny.network().state_dict())
    old = tiny.CONFIG.to_metadata()
    fields = json.loads(old[CONFIG_KEY])
    del fields["proxy_window"]
    assert MDiTConfig.from_metadata(old | {CONFIG_KEY: json.dumps(fields)}) == tiny.CONFIG


def test_a_negative_window_is_refused():
    with pytest.raises(ValueError, match="proxy_window -1"):
        tiny.config(proxy_window=-1)


def test_a_file_with_proxies_is_sampled(tmp_path):
    path = tiny.write(tmp_path / "proxied.safetensors", tiny.config(proxy_window=2))
    assert any(".proxy." in name for name in load_file(path))
    with torch.inference_mode():
        loaded = host.load_mdit(path)
        text = tiny.conditioning(loaded.clip, "young woman")
        first, report = run(loaded.model, masked(text, tiny.mask()), text)
        assert first.isfinite().all() and report.passes == 1
        assert not torch.equal(first, run(loaded.model, text, text)[0])


@torch.inference_mode(False)
def test_training_starts_neutral_and_reaches_every_weight(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)  # as the trainer does
    net, given = proxied(2)
    net.requires_grad_(True)
    initialize_model(net)
    img = torch.randn(1, 12, net.config.width)
    near = make_proxy_grid(2, (3, 4), img, given.positions, lambda positions: net.encode_positions(positions, {})[1])
    assert torch.equal(net.blocks[0].proxy.query.bias, net.blocks[0].img.qkv.bias[:net.config.width])
    assert torch.equal(net.blocks[0].proxy.read_windows(img, torch.ones(1, net.config.width), near), img)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.1)
    forward(net, given, [static_rows(net, given)]).square().mean().backward()
    unreached = [name for name, weight in net.named_parameters() if ".proxy." in name and not weight.grad.any()]
    assert unreached == []
