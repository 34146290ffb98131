"""Nodes that put code of their own in place of the model's forward or blocks: the right block's keys, or words that
name what stands there (docs/design/adapters.md, section 2.1)."""
import logging
from unittest import mock

import pytest
import torch
import torch.nn as nn

from comfy.ldm.flux.layers import timestep_embedding
from mditface.mdit.mditface.adapter.families import FAMILIES
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter.bases import case as make_case, find_key, mask, prediction, run
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

ROUNDING = dict(rtol=0, atol=2e-5)
OWN_MODULATION = ("flux2", "chroma")  # their network hands each kind of blocks, or each block, a modulation of its own
PACK = "/comfy/custom_nodes/Some-Pack.nodes"


def inside(model, **replacements):
    """A clone whose network has other attributes while it is called, as first-block caches do it: by a function of the
    network for each."""
    def wrapper(apply_model, args):
        network = model.model.diffusion_model
        changed = {name: make(network) for name, make in replacements.items()}
        with mock.patch.multiple(network, **changed):
            return apply_model(args["input"], args["timestep"], **args["c"])
    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


class Joint(nn.Module):
    """Stands for all blocks of SD3."""

    def __init__(self, blocks, skipped=()):
        super().__init__()
        self.blocks = blocks
        self.skipped = skipped

    def forward(self, context, x, **kwargs):
        for i, block in enumerate(self.blocks):
            if i not in self.skipped:
                context, x = block(context, x, **kwargs)
        return context, x


class Streams(nn.Module):
    """Stands for all blocks of FLUX, double and single."""

    def __init__(self, double, single):
        super().__init__()
        self.doubles = double
        self.singles = single

    def forward(self, img, txt, **kwargs):
        for block in self.doubles:
            img, txt = block(img=img, txt=txt, **kwargs)
        x = torch.cat((txt, img), dim=1)
        for block in self.singles:
            x = block(x, **kwargs)
        return x[:, txt.shape[1]:], x[:, :txt.shape[1]]


class Pairs(nn.Module):
    """Stands for all blocks of Qwen-Image."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, hidden_states, encoder_hidden_states, **kwargs):
        for block in self.blocks:
            encoder_hidden_states, hidden_states = block(
                hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)
        return encoder_hidden_states, hidden_states


class Layers(nn.Module):
    """Stands for all layers of Z-Image."""

    def __init__(self, layers):
        super().__init__()
        self.inner = layers

    def forward(self, x, *args, **kwargs):
        for layer in self.inner:
            x = layer(x, *args, **kwargs)
        return x


class Around(nn.Module):
    """Stands for one block."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return self.block(*args, **kwargs)


def surround(name):
    return lambda network: nn.ModuleList([Around(block) for block in getattr(network, name)])


def bundled(case, model=None):
    """All blocks in one module."""
    model = model or case.model
    if case.of_flux_kind:
        return inside(model, single_blocks=lambda network: nn.ModuleList(),
                      double_blocks=lambda network: nn.ModuleList([
                          Streams(network.double_blocks, network.single_blocks)]))
    if case.family == "qwen-image":
        return inside(model, transformer_blocks=lambda network: nn.ModuleList([Pairs(network.transformer_blocks)]))
    if case.family == "z-image":
        return inside(model, layers=lambda network: nn.ModuleList([Layers(network.layers)]))
    return inside(model, joint_blocks=lambda network: nn.ModuleList([Joint(network.joint_blocks)]))


def list_attributes(case) -> list[str]:
    """Where the network keeps its blocks."""
    return [attribute for attribute, _ in FAMILIES[find_key(case.family)].stream.lists.values()]


def surrounded(case):
    """Each block in a module of its own."""
    return inside(case.model, **{name: surround(name) for name in list_attributes(case)})


@pytest.mark.parametrize("stand_in", [bundled, surrounded])
@pytest.mark.parametrize("options", [CacheOptions(), OFF], ids=["cached", "off"])
def test_blocks_inside_of_other_modules_read_their_own_keys(case, texts, stand_in, options):
    if stand_in is bundled and case.family in OWN_MODULATION:
        pytest.skip("one module has one modulation, its blocks need several")
    labels = mask()
    for _ in range(2):  # cold, then warm
        out, report = run(stand_in(case), masked(texts[0], labels), texts[1], options)
        torch.testing.assert_close(out, run(case.model, masked(texts[0], mask()), texts[1])[0], **ROUNDING)
        assert report.notes == []


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux", "qwen-image", "z-image"])
def test_two_adapters_around_one_module(cases, texts, tmp_path, family):
    own = cases[family]
    second, positive = make_case(own.family, own.base, tmp_path, seed=5), masked(texts[0], mask())
    both = second.apply(own.model)
    torch.testing.assert_close(prediction(bundled(own, both), positive), prediction(both, positive), **ROUNDING)


def test_skipped_blocks_inside_of_another_module_are_counted(cases, texts):
    model = inside(cases["sd3"].model, joint_blocks=lambda network: nn.ModuleList([
        Joint(network.joint_blocks, skipped=[1])]))
    _, report = run(model, masked(texts[0], mask()), texts[1])
    (note,) = report.notes
    assert note.startswith("masks read in 4 of 6 block calls")


class Opaque(nn.Module):
    """Computes as the block does, but has none of its layers."""

    def __init__(self, block):
        super().__init__()
        self.call = [block]

    def forward(self, *args, **kwargs):
        return self.call[0](*args, **kwargs)


def test_blocks_that_are_not_there_are_refused_by_name(case, texts, monkeypatch):
    monkeypatch.setattr(Opaque, "__module__", PACK)
    name = list_attributes(case)[0]
    model = inside(case.model, **{name: lambda network: nn.ModuleList(map(Opaque, getattr(network, name)))})
    message = r"model: \d blocks should read the mask, but \d were found.*'Opaque' of Some-Pack"
    with pytest.raises(ValueError, match=message):
        run(model, masked(texts[0], mask()), texts[1])


def forward_without_options(self, img, img_ids, txt, txt_ids, timesteps, y, guidance=None, control=None,
                            timestep_zero_index=None, transformer_options={}, attn_mask=None):
    """FLUX's forward as step caches bring it: patches and blocks get no transformer options."""
    patches = transformer_options["patches_replace"]["dit"]
    img, txt = self.img_in(img), self.txt_in(txt)
    vec = self.time_in(timestep_embedding(timesteps, 256)) + self.guidance_in(timestep_embedding(guidance, 256))
    vec, pe = vec + self.vector_in(y), self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
    rest = dict(vec=vec, pe=pe, attn_mask=attn_mask)
    for i, block in enumerate(self.double_blocks):
        def double(args):
            return dict(zip(("img", "txt"), block(**{name: args[name] for name in ("img", "txt", *rest)})))
        args = dict(img=img, txt=txt, **rest)
        out = patches.get(("double_block", i), call_original)(args, dict(original_block=double))
        img, txt = out["img"], out["txt"]
    x = torch.cat((txt, img), dim=1)
    for i, block in enumerate(self.single_blocks):
        def single(args):
            return dict(img=block(args["img"], **{name: args[name] for name in rest}))
        x = patches.get(("single_block", i), call_original)(dict(img=x, **rest), dict(original_block=single))["img"]
    return self.final_layer(x[:, txt.shape[1]:], vec)


def call_original(args, extra):
    return extra["original_block"](args)


def forward_without_patches(self, *args, transformer_options={}, **kwargs):
    return forward_without_options(self, *args, transformer_options={"patches_replace": {"dit": {}}}, **kwargs)


def forwarding(model, forward):
    return inside(model, forward_orig=lambda network: forward.__get__(network))


@pytest.fixture(params=["flux", "easycontrol"])
def flux(request, cases):
    return cases[request.param]


def test_a_forward_without_transformer_options(flux, texts):
    labels = mask()
    for options in (CacheOptions(), CacheOptions(), OFF):
        out, report = run(forwarding(flux.model, forward_without_options), masked(texts[0], labels), texts[1], options)
        torch.testing.assert_close(out, run(flux.model, masked(texts[0], mask()), texts[1])[0], **TOLERANCE)
        assert report.notes == []


def halving(args, extra):
    """A foreign patch of a block."""
    return {**extra["original_block"](args), "txt": 0.5 * args["txt"]}


def test_other_patches_in_a_forward_without_transformer_options(flux, texts, tmp_path):
    base = flux.base.clone()
    base.set_model_patch_replace(halving, "dit", "double_block", 1)
    model = make_case("flux", base, tmp_path, seed=5).apply(flux.apply(base))
    positive = masked(texts[0], mask())
    torch.testing.assert_close(prediction(forwarding(model, forward_without_options), positive),
                               prediction(model, positive), **ROUNDING)


def test_a_forward_without_patches_is_named(flux, texts, caplog, monkeypatch):
    monkeypatch.setattr(forward_without_patches, "__module__", PACK)
    with caplog.at_level(logging.WARNING):
        out, report = run(forwarding(flux.model, forward_without_patches), masked(texts[0], mask()), texts[1])
    torch.testing.assert_close(out, run(flux.base, *texts)[0], **TOLERANCE)
    (note,) = report.notes
    assert note.startswith("no block read the mask")
    assert "'forward_without_patches' of Some-Pack" in note
    assert note in caplog.text
