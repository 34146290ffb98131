"""An adapter together with what else is on the graph, against the definition of the streams
(docs/design/adapters.md, sections 2 and 5.4)."""
import logging
import math
from functools import partial

import pytest
import torch

import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_management
import comfy.ops
import comfy.utils
import nodes
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from mditface.mdit.mditface.adapter.reader import make_mask_key
from mditface.mdit.mditface.mask import MaskReference
from mditface.tests.adapter.bases import (
    FLUX, FLUX_KIND, KERNELS, MMDIT, QWEN, SIGMA, VAE, FrameVAE, case as make_case, count_parts, find_key,
    list_key_layers, mask, noisy, prediction, published, random_weights, run)
from mditface.tests.adapter.flux_kind import FLUX_KINDS
from mditface.tests.adapter.reference import attend, pad_text, predict, still
from mditface.tests.mditface import runs
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

ROUNDING = dict(rtol=0, atol=2e-5)  # another order of summation


def control_net(family: str) -> torch.nn.Module:
    """The host's ControlNet class with random weights."""
    make = dict(device="cpu", dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    if family in FLUX_KIND:
        net = comfy.ldm.flux.controlnet.ControlNetFlux(latent_input=True, control_latent_channels=16, **FLUX, **make)
    elif family == "qwen-image":
        net = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(**QWEN, **make)
    else:
        net = comfy.cldm.mmdit.ControlNet(num_blocks=3, control_latent_channels=16, **MMDIT, **make)
    net.load_state_dict(random_weights(net, seed=4))
    return net.eval().requires_grad_(False)


def controlled(family: str, net, positive, negative, picture):
    """The conditionings with a ControlNet, as the host's loaders and nodes make them."""
    formats = {"sd3": comfy.latent_formats.SD3, "qwen-image": comfy.latent_formats.Wan21}
    extra = {"sd3": ["y"], "qwen-image": []}
    key = find_key(family)
    control = comfy.controlnet.ControlNet(net, compression_ratio=1,
                                          latent_format=formats.get(key, comfy.latent_formats.Flux)(),
                                          load_device=comfy.model_management.get_torch_device(),
                                          extra_conds=extra.get(key, ["y", "guidance"]))
    vae = FrameVAE() if key == "qwen-image" else VAE
    return nodes.ControlNetApplyAdvanced().apply_controlnet(positive, negative, control, picture, 0.8, 0.0, 1.0, vae)


@pytest.mark.usefixtures("block_patches")
def test_controlnet(case, texts):
    net, labels, x = control_net(case.family), mask(), noisy()
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    positive, negative = controlled(case.family, net, masked(texts[0], labels), texts[1], picture)
    model, (context, values) = case.base.model, texts[0][0]
    extra = dict(guidance=torch.tensor([FLUX_KINDS[case.family].guidance])) if case.of_flux_kind else {}
    t = model.model_sampling.timestep(torch.tensor([SIGMA]))
    frames = (lambda latent: latent.unsqueeze(2)) if case.family == "qwen-image" else lambda latent: latent
    hint = frames(still(model, model.process_latent_in, VAE.encode(picture)))
    context = pad_text(case.family, context)
    residuals = net(x=frames(x), hint=hint, context=context, timesteps=t, y=values["pooled_output"], **extra)

    def after(kind, i, img):
        added = residuals["input" if find_key(case.family) != "sd3" and kind == "double" else "output"]
        return img + 0.8 * added[i] if i < len(added) else img
    out = prediction(case.model, positive, negative, x)
    torch.testing.assert_close(out, predict(x, texts[0], (case, labels), after=after), **ROUNDING)
    assert not torch.allclose(out, prediction(case.model, masked(texts[0], labels), x=x), atol=1e-2)


def lora_layers(case) -> list[str]:
    return [layer for i in range(2) for layer in list_key_layers(case.family, i)]


LORAS = {"before": lambda case: case.apply(runs.with_lora(case.base, 0.7)),
         "after": lambda case: runs.with_lora(case.model, 0.7),
         "injected before": lambda case: case.apply(runs.with_bypass_lora(case.base, 0.7)),
         "injected after": lambda case: runs.with_bypass_lora(case.model, 0.7)}


@pytest.mark.parametrize("patched", LORAS.values(), ids=LORAS.keys())
def test_a_lora_changes_the_mask_stream_too(case, texts, monkeypatch, patched):
    lora = runs.lora(*lora_layers(case), width=case.adapter.config.width, parts=count_parts(case.family))
    monkeypatch.setattr(runs, "MASK_LORA", lora)
    weights, positive = dict(published(case.family)), masked(texts[0], mask())
    for layer in lora_layers(case):
        up, down = (lora[f"diffusion_model.{layer}.lora_{half}.weight"] for half in ("up", "down"))
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + 0.7 * up @ down
    expected = prediction(case.apply(case.load(weights)), positive)
    torch.testing.assert_close(prediction(patched(case), positive), expected, **ROUNDING)


UNMERGED = ("pos_embed", "cap_pad_token", "x_pad_token")  # no weights of a layer: the host leaves them as they are


def test_model_merge_merges_the_mask_stream_too(case, texts):
    first = published(case.family)
    second = {**published(case.family, seed=9), **{name: first[name] for name in first if name in UNMERGED}}
    other, positive = case.load(second), masked(texts[0], mask())
    mixed = {name: 0.3 * first[name] + 0.7 * second[name] for name in first}
    expected = prediction(case.apply(case.load(mixed)), positive)
    (after,) = ModelMergeSimple().merge(case.model, other, 0.3)
    (before,) = ModelMergeSimple().merge(case.base, other, 0.3)
    for model in (after, case.apply(before)):
        torch.testing.assert_close(prediction(model, positive), expected, **ROUNDING)


BLOCKS = {"sd3": [("double", 1)], "sd35": [("double", 1)], "qwen-image": [("double", 1)]}
BLOCKS |= dict.fromkeys(FLUX_KIND, [("double", 1), ("single", 2)])


def rescaling(args: dict, extra: dict) -> dict:
    """A foreign patch: the block's image tokens times 0.7."""
    out = extra["original_block"](args)
    text = 0 if "txt" in args else args["transformer_options"]["img_slice"][0]
    out["img"] = torch.cat((out["img"][:, :text], 0.7 * out["img"][:, text:]), dim=1)
    return out


def in_front(case):
    """The base's patches are set when the adapter comes."""
    model = case.base.clone()
    for kind, i in BLOCKS[case.family]:
        model.set_model_patch_replace(rescaling, "dit", f"{kind}_block", i)
    return case.apply(model)


def behind(case):
    """The patches go around the adapter's, in a wrapper of their own."""
    names = [(f"{kind}_block", i) for kind, i in BLOCKS[case.family]]

    def wrapper(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        replace = transformer_options["patches_replace"]
        patches = {name: around(replace["dit"][name]) for name in names}
        options = {**transformer_options, "patches_replace": {**replace, "dit": {**replace["dit"], **patches}}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def around(previous):
        return lambda args, extra: rescaling(args, {"original_block": lambda args: previous(args, extra)})
    model = case.model
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "foreign", wrapper)
    return model


@pytest.mark.usefixtures("block_patches")
@pytest.mark.parametrize("patched", [in_front, behind])
def test_a_foreign_block_patch(case, texts, patched):
    labels, x = mask(), noisy()
    expected = predict(x, texts[0], (case, labels), after=lambda kind, i, img:
                       0.7 * img if (kind, i) in BLOCKS[case.family] else img)
    torch.testing.assert_close(prediction(patched(case), masked(texts[0], labels), x=x), expected, **ROUNDING)


def with_override(case, override):
    model = case.base.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return case.apply(model)


@pytest.mark.parametrize("family", ["sd3", "flux", "easycontrol", "qwen-image"])
def test_a_foreign_attention_sees_all_keys(cases, texts, family):
    case, labels, x, keys = cases[family], mask(), noisy(), []

    def weaker(function, q, k, v, *args, **kwargs):
        keys.append(k.shape[2])
        return 0.9 * function(q, k, v, *args, **kwargs)

    def expected(*args):
        *own, last = attend(*args)
        return [*(0.9 * out for out in own), last]
    out = prediction(with_override(case, weaker), masked(texts[0], labels), x=x)
    assert set(keys) == {5 + 16 + (9 if case.condition else 16)}
    torch.testing.assert_close(out, predict(x, texts[0], (case, labels), attend=expected), **ROUNDING)


def test_a_foreign_attention_with_rows_that_do_not_read(case, texts):
    """What it gets is the whole batch with all queries."""
    seen = []

    def plain(function, q, k, v, *args, **kwargs):
        seen.append((q.shape[0], q.shape[-2] if kwargs.get("skip_reshape") else q.shape[1]))
        return function(q, k, v, *args, **kwargs)
    positive = masked(texts[0], mask(), 0.5)
    out = prediction(with_override(case, plain), positive, texts[1], noisy(), cfg=2.0)
    torch.testing.assert_close(out, prediction(case.model, positive, texts[1], noisy(), cfg=2.0), **ROUNDING)
    assert {batch for batch, _ in seen} == {2}


@pytest.mark.parametrize("family", ["flux", "easycontrol", "qwen-image"])
def test_an_attn1_patch(cases, texts, family):
    case, labels, x = cases[family], mask(), noisy()
    model = case.base.clone()
    model.set_model_attn1_patch(lambda q, k, v, pe, attn_mask, extra_options: {"q": 1.5 * q})

    def expected(reads, count, *streams):
        sharper = [(1.5 * q, k, v) for q, k, v in streams[:-1]]
        return attend(reads, count, *sharper, streams[-1])
    torch.testing.assert_close(prediction(case.apply(model), masked(texts[0], labels), x=x),
                               predict(x, texts[0], (case, labels), attend=expected), **ROUNDING)


@pytest.mark.parametrize("family", ["flux", "easycontrol"])
@pytest.mark.parametrize("overridden", [False, True])
@KERNELS
def test_an_attention_mask_of_the_conditioning(cases, texts, family, overridden, kernel):
    case, labels, x = cases[family], mask(), noisy()
    model = case.model
    if overridden:
        model = with_override(case, lambda function, *args, **kwargs: function(*args, **kwargs))
    own = torch.randn(21, 21, generator=torch.Generator().manual_seed(3))
    own[:3, 8:] = -math.inf
    (context, values), = texts[0]
    positive = [[context, {**values, "attention_mask": own[None], "attention_mask_img_shape": (4, 4)}]]
    torch.testing.assert_close(prediction(model, masked(positive, labels), x=x),
                               predict(x, texts[0], (case, labels), attend=partial(attend, own=own)), **ROUNDING)


@pytest.mark.parametrize("overridden", [False, True])
@KERNELS
def test_qwen_images_mask_of_its_text(cases, texts, overridden, kernel):
    """1 for each text token that the model may read."""
    case, labels, x = cases["qwen-image"], mask(), noisy()
    model = case.model
    if overridden:
        model = with_override(case, lambda function, *args, **kwargs: function(*args, **kwargs))
    (context, values), = texts[0]
    positive = [[context, {**values, "attention_mask": torch.tensor([[1, 1, 1, 0, 0]])}]]
    own = torch.zeros(21, 21)
    own[:, 3:5] = -math.inf
    torch.testing.assert_close(prediction(model, masked(positive, labels), x=x),
                               predict(x, texts[0], (case, labels), attend=partial(attend, own=own)), **ROUNDING)


SILENT = {"sd3": ["joint_blocks.1.x_block.attn.proj", "joint_blocks.1.x_block.mlp.fc2",
                  "joint_blocks.1.context_block.attn.proj", "joint_blocks.1.context_block.mlp.fc2"],
          "flux": ["double_blocks.1.img_attn.proj", "double_blocks.1.img_mlp.2", "double_blocks.1.txt_attn.proj",
                   "double_blocks.1.txt_mlp.2", "single_blocks.0.linear2"]}
SILENT["sd35"] = [*SILENT["sd3"], "joint_blocks.1.x_block.attn2.proj"]
SILENT["flux2"] = SILENT["chroma"] = SILENT["flux"]
SILENT["qwen-image"] = [f"transformer_blocks.1.{layer}" for layer in (
    "attn.to_out.0", "img_mlp.net.2", "attn.to_add_out", "txt_mlp.net.2")]


def silence(family: str, net: torch.nn.Module):
    """Nothing that double block 1 and single block 0 compute is added to the streams."""
    for name in SILENT[family]:
        layer = comfy.utils.get_attr(net, name)
        for weight in layer.parameters():
            weight.data.zero_()


@pytest.mark.usefixtures("block_patches")
def test_skip_layer_guidance(case, texts):
    labels, x, positive = mask(), noisy(), masked(texts[0], mask())
    model = SkipLayerGuidanceDiT.execute(case.model, 2.0, 0.0, 1.0, "1", "0").result[0]
    full = predict(x, texts[0], (case, labels))
    skipped = predict(x, texts[0], (case, labels), edit=partial(silence, case.family))
    assert not torch.allclose(full, skipped, atol=1e-2)
    torch.testing.assert_close(prediction(model, positive, x=x), full + 2 * (full - skipped), rtol=0, atol=5e-5)
    out, report = run(model, positive, texts[1])
    torch.testing.assert_close(out, run(model, masked(texts[0], mask()), texts[1], OFF)[0], **TOLERANCE)
    assert any("masks read in" in note for note in report.notes)


STEP_CACHES = {"easy": EasyCacheNode, "lazy": LazyCacheNode}


@pytest.mark.parametrize("node", STEP_CACHES.values(), ids=STEP_CACHES.keys())
def test_step_caches(case, texts, node):
    def cached(model):
        return node.execute(model, 3.0, 0.0, 1.0, False).result[0]
    positive = masked(texts[0], mask())
    exact, _ = run(case.model, positive, texts[1], steps=6)
    out, report = run(cached(case.model), positive, texts[1], steps=6)
    torch.testing.assert_close(out, run(cached(case.model), positive, texts[1], OFF, steps=6)[0], **TOLERANCE)
    skips = find_key(case.family) != "sd3" or node is LazyCacheNode  # the host's EasyCache does nothing on SD3
    assert torch.equal(out, exact) != skips
    assert not any("no block" in note for note in report.notes)
    assert torch.equal(run(cached(case.model), *texts, steps=6)[0], run(cached(case.base), *texts, steps=6)[0])


def swallowing(blocks):
    """A wrapper inside the adapter's that drops the patches of some blocks."""
    def wrapper(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        patches = transformer_options["patches_replace"]["dit"]
        kept = {name: patch for name, patch in patches.items() if not blocks(name)}
        options = {**transformer_options, "patches_replace": {"dit": kept}}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    return wrapper


@pytest.mark.usefixtures("block_patches")
def test_a_forward_that_swallows_the_patches_is_noticed(case, texts, caplog):
    model = case.model
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "foreign", swallowing(lambda name: True))
    with caplog.at_level(logging.WARNING):
        out, report = run(model, masked(texts[0], mask()), texts[1])
    assert torch.equal(out, run(case.base, *texts)[0])
    (note,) = report.notes
    assert note.startswith("no block read the mask")
    assert note in caplog.text


@pytest.mark.usefixtures("block_patches")
def test_a_forward_that_swallows_some_patches_is_noted(case, texts, caplog):
    model = case.model
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "foreign", swallowing(lambda name: name[1] == 0))
    with caplog.at_level(logging.WARNING):
        _, report = run(model, masked(texts[0], mask()), texts[1])
    total = sum(case.adapter.config.depth)
    lost = sum(count > 0 for count in case.adapter.config.depth)  # the first block of each kind
    (note,) = report.notes
    assert note.startswith(f"masks read in {2 * (total - lost)} of {2 * total} block calls")
    assert not caplog.records


@pytest.fixture
def second(own, tmp_path):
    """Another adapter for the same base."""
    return make_case(own.family, own.base, tmp_path, seed=5)


def with_masks(cond, *readers):
    return [[text, {**values, **{make_mask_key(case.adapter): MaskReference(m) for case, m in readers}}]
            for text, values in cond]


@pytest.mark.parametrize("first_outside", [True, False])
def test_two_adapters_with_two_masks(own, second, texts, first_outside):
    readers, x = [(own, mask(seed=0)), (second, mask(seed=1))], noisy()
    inner, outer = (own, second) if first_outside else (second, own)
    model = outer.apply(inner.model)
    positive = with_masks(texts[0], *readers)
    torch.testing.assert_close(prediction(model, positive, x=x), predict(x, texts[0], *readers), **ROUNDING)
    for reader in readers:
        torch.testing.assert_close(prediction(model, with_masks(texts[0], reader), x=x),
                                   predict(x, texts[0], reader), **ROUNDING)
    report = run(model, positive, texts[1])[1]
    assert (report.passes, report.hits, report.notes) == (0, 4, [])


@pytest.mark.parametrize("first_outside", [True, False])
def test_two_adapters_in_different_halves(own, second, texts, first_outside):
    readers, x = [(own, mask(seed=0)), (second, mask(seed=1))], noisy()
    inner, outer = (own, second) if first_outside else (second, own)
    conds = [with_masks(cond, reader) for cond, reader in zip(texts, readers)]
    positive, negative = (predict(x, cond, reader) for cond, reader in zip(texts, readers))
    torch.testing.assert_close(prediction(outer.apply(inner.model), *conds, x=x, cfg=2.0),
                               negative + 2 * (positive - negative), rtol=0, atol=5e-5)


@pytest.mark.parametrize("first_outside", [True, False])
def test_two_adapters_of_which_one_is_not_read_by_the_text(own, texts, tmp_path, first_outside):
    shy = make_case(own.family, own.base, tmp_path, seed=5, text_reads_mask=False)
    readers, x = [(own, mask(seed=0)), (shy, mask(seed=1))], noisy()
    reads = torch.zeros(own.text_tokens + 16, 32)
    reads[:own.text_tokens, 16:] = -math.inf
    model = shy.apply(own.model) if first_outside else own.apply(shy.model)
    torch.testing.assert_close(prediction(model, with_masks(texts[0], *readers), x=x),
                               predict(x, texts[0], *readers, reads=reads), **ROUNDING)


def test_one_mask_for_both_adapters(own, second, texts):
    labels, x = mask(), noisy()
    torch.testing.assert_close(prediction(second.apply(own.model), masked(texts[0], labels), x=x),
                               predict(x, texts[0], (own, labels), (second, labels)), **ROUNDING)
