"""Functions, wrappers and callbacks of other nodes: what the host's guider honours, ours honour."""
import importlib.util

import pytest
import torch

import comfy.controlnet
import comfy.model_management
import comfy.samplers
import nodes
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple
from mditface.mdit.mditface.guidance import DualGuider, Guidance
from mditface.mdit.mditface.sample import sample
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import SIDE, batches, evaluate, masked
from mditface.tests.shared import hooks

CLOSE = dict(rtol=0, atol=2e-5)
TEXT, MASK = 2.0, 1.5
ALL = pytest.mark.parametrize("hook", hooks.ALL.values(), ids=hooks.ALL.keys())


@pytest.fixture
def three(texts):
    """Conditionings: mask and text, mask without the text, neither."""
    mask = tiny.mask()
    return masked(texts[0], mask), masked(texts[1], mask), texts[1]


def noisy():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def stock(model, positive, negative, scale=1.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(scale)
    return guider


def dual(model, positive, negative, text=TEXT, mask=MASK):
    guider = DualGuider(model)
    guider.set_conds(positive, negative)
    guider.set_guidance(Guidance(text, mask))
    return guider


def sampled(model, positive, negative, mask, latent=None, text=TEXT, steps=3, **changes):
    latent = {"samples": torch.zeros(2, 3, SIDE, SIDE)} if latent is None else latent
    return sample(model, seed=0, steps=steps, guidance=Guidance(text, mask), sampler_name="euler", scheduler="simple",
                  positive=positive, negative=negative, latent=latent, **changes)


def by_the_host(model, positive, negative, latent=None, steps=3, **changes):
    latent = {"samples": torch.zeros(2, 3, SIDE, SIDE)} if latent is None else latent
    return nodes.common_ksampler(model, 0, steps, TEXT, "euler", "simple", positive, negative, latent, **changes)[0]


@ALL
def test_text_guidance_is_the_hosts(loaded, three, hook):
    """At a mask scale of 1 the pair is the positive, and the positive with the negative's text."""
    full, mask_only, neither = three
    expected = by_the_host(hook(loaded.model), full, mask_only)["samples"]
    found, _ = sampled(hook(loaded.model), full, neither, 1.0)
    torch.testing.assert_close(found["samples"], expected, **CLOSE)
    assert not torch.allclose(expected, by_the_host(loaded.model, full, mask_only)["samples"], atol=1e-3)


@pytest.mark.parametrize("kind", ["guidance", "model"])
def test_both_guidances(loaded, three, kind):
    """The text's pair is guided by the host, and (w_m - 1) [v(m,0) - v(0,0)] is added to it."""
    full, mask_only, neither = three
    for name, hook in (hooks.GUIDANCE if kind == "guidance" else hooks.MODEL).items():
        model = hook(loaded.model)
        pair = evaluate(stock(model, full, mask_only, TEXT), noisy())
        v_m, v_0 = (evaluate(stock(loaded.model if kind == "guidance" else model, cond, cond), noisy())
                    for cond in (mask_only, neither))
        found = evaluate(dual(model, full, neither), noisy())
        torch.testing.assert_close(found, pair + (MASK - 1) * (v_m - v_0), **CLOSE, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("hook", hooks.RUN.values(), ids=hooks.RUN.keys())
def test_functions_around_a_run_with_both_guidances(loaded, three, hook):
    full, _, neither = three
    found, _ = sampled(hook(loaded.model), full, neither, MASK, steps=1)
    bare, _ = sampled(loaded.model, full, neither, MASK, steps=1)
    torch.testing.assert_close(found["samples"], 0.9 * bare["samples"], **CLOSE)


def test_hooks_see_what_the_hosts_guider_shows_them(loaded, three):
    full, mask_only, neither = three
    names = ["set_model_sampler_pre_cfg_function", "set_model_sampler_post_cfg_function"]

    def watch(guide, *scales):
        seen, model = [], loaded.model.clone()
        model.set_model_sampler_pre_cfg_function(lambda args: seen.append(args) or args["conds_out"])
        model.set_model_sampler_post_cfg_function(lambda args: seen.append(args) or args["denoised"])
        evaluate(guide(model, *scales), noisy())
        return seen
    expected = watch(lambda model: stock(model, full, mask_only, TEXT))
    found = watch(lambda model: dual(model, full, neither))
    assert [args.keys() for args in found] == [args.keys() for args in expected] and len(found) == len(names)
    before, after = found
    assert len(before["conds_out"]) == len(before["conds"]) == 2 and None not in before["conds"]
    torch.testing.assert_close(before["conds_out"], expected[0]["conds_out"], **CLOSE)
    for name in ("cond_denoised", "uncond_denoised", "denoised", "input", "sigma"):
        torch.testing.assert_close(after[name], expected[1][name], **CLOSE)
    assert before["cond_scale"] == after["cond_scale"] == TEXT


def test_a_function_that_needs_both_predictions_gets_them_at_scale_1(loaded, three):
    full, _, neither = three
    model, seen = batches(loaded.model)
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"], disable_cfg1_optimization=True)
    evaluate(dual(model, full, neither, 1.0, 1.0), noisy())
    assert seen == [4]


def test_skip_layer_guidance_of_the_negative(loaded, three):
    """The host's node that replaces the evaluation and takes two conditions."""
    full, mask_only, neither = three
    model = SkipLayerGuidanceDiTSimple.execute(loaded.model, 0.0, 1.0, "1", "").result[0]
    pair = evaluate(stock(model, full, mask_only, TEXT), noisy())
    mask_pair = [evaluate(stock(model, mask_only, neither, scale), noisy()) for scale in (MASK, 1.0)]
    found = evaluate(dual(model, full, neither), noisy())
    torch.testing.assert_close(found, pair + mask_pair[0] - mask_pair[1], **CLOSE)
    assert not torch.allclose(found, evaluate(dual(loaded.model, full, neither), noisy()), atol=1e-3)


def test_a_function_on_the_noise_mask(loaded, three):
    full, mask_only, neither = three
    latent = {"samples": torch.rand(2, 3, SIDE, SIDE) - 0.5, "noise_mask": hooks.noise_mask(SIDE, SIDE)}
    model = hooks.softened(loaded.model)
    expected = by_the_host(model, full, mask_only, latent)["samples"]
    torch.testing.assert_close(sampled(model, full, neither, 1.0, latent)[0]["samples"], expected, **CLOSE)
    assert not torch.allclose(expected, by_the_host(loaded.model, full, mask_only, latent)["samples"], atol=1e-3)


def test_callbacks_are_called_as_by_the_host(loaded, three):
    full, mask_only, neither = three
    kinds = (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP, CallbacksMP.ON_PREPARE_STATE)
    model, expected = hooks.counted(loaded.model, kinds)
    by_the_host(model, full, mask_only)
    model, found = hooks.counted(loaded.model, kinds)
    sampled(model, full, neither, MASK)
    assert found == expected and min(found.values()) > 0


def test_what_memory_is_asked_for_passes_the_wrappers(loaded, three):
    seen, model = [], loaded.model.clone()

    def prepare(executor, model, shape, *args, **kwargs):
        seen.append(tuple(shape))
        return executor(model, shape, *args, **kwargs)
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "foreign", prepare)
    sampled(model, three[0], three[2], MASK)
    assert seen == [(2, 3, SIDE, SIDE)]


# What is not guided: noise, masks, sizes, denoise


def test_a_noise_mask_is_the_hosts(loaded, three):
    full, mask_only, neither = three
    spared = torch.zeros(1, SIDE, SIDE)
    spared[:, :, SIDE // 2:] = 1
    latent = {"samples": torch.rand(2, 3, SIDE, SIDE) - 0.5, "noise_mask": spared}
    found, _ = sampled(loaded.model, full, neither, 1.0, latent)
    torch.testing.assert_close(found["samples"], by_the_host(loaded.model, full, mask_only, latent)["samples"], **CLOSE)
    kept = found["samples"][..., :SIDE // 2]
    torch.testing.assert_close(kept, latent["samples"][..., :SIDE // 2], **CLOSE)
    assert not torch.allclose(found["samples"][..., SIDE // 2:], latent["samples"][..., SIDE // 2:], atol=0.1)
    assert found["noise_mask"] is spared


@pytest.mark.parametrize("denoise", [0.0, 0.3, 0.7, 1.0])
def test_denoise_is_the_hosts(loaded, three, denoise):
    full, mask_only, neither = three
    latent = {"samples": torch.rand(2, 3, SIDE, SIDE) - 0.5, "batch_index": [4, 1]}
    found, report = sampled(loaded.model, full, neither, 1.0, latent, denoise=denoise)
    expected = by_the_host(loaded.model, full, mask_only, latent, denoise=denoise)
    torch.testing.assert_close(found["samples"], expected["samples"], **CLOSE)
    assert found["batch_index"] == expected["batch_index"]
    assert f"steps {3 if denoise else 0}" in str(report)
    if denoise == 0:
        assert torch.equal(found["samples"], latent["samples"])


def test_the_type_of_the_output_is_the_hosts(loaded, three, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "intermediate_dtype", lambda: torch.float16)
    full, mask_only, neither = three
    found, _ = sampled(loaded.model, full, neither, 1.0)
    expected = by_the_host(loaded.model, full, mask_only)
    assert found["samples"].dtype == expected["samples"].dtype == torch.float16


def test_a_negative_for_a_part_of_the_schedule(loaded, texts, three):
    """Two negatives, one after the other, equal the host's guider on the same parts."""
    mask, parts = tiny.mask(), ((0.0, 0.5), (0.5, 1.0))
    negatives = [[text, {**extra, "start_percent": start, "end_percent": end}]
                 for (text, extra), (start, end) in zip([*texts[1], *three[0]], parts)]
    expected = by_the_host(loaded.model, three[0], masked(negatives, mask), steps=4)["samples"]
    found, _ = sampled(loaded.model, three[0], negatives, 1.0, steps=4)
    torch.testing.assert_close(found["samples"], expected, **CLOSE)


# Refused by name


@pytest.mark.parametrize("given, source", [((None, "texts"), "positive"), (([], "texts"), "positive"),
                                           (("texts", []), "negative")])
def test_empty_conditionings_are_refused(loaded, texts, given, source):
    positive, negative = (texts[1] if one == "texts" else one for one in given)
    with pytest.raises(ValueError, match=f"{source}: it holds no conditioning"):
        dual(loaded.model, positive, negative)


def nested():
    from comfy.nested_tensor import NestedTensor
    return NestedTensor([torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)])


@pytest.mark.parametrize("latent, message", [
    ({"samples": torch.full((1, 3, SIDE, SIDE), float("nan"))}, "latent_image: it holds NaN"),
    ({"samples": torch.full((1, 3, SIDE, SIDE), float("inf"))}, "latent_image: it holds NaN"),
    ({"samples": torch.zeros(1, 3, 2, SIDE, SIDE)}, r"latent_image: shape \(1, 3, 2, 16, 16\)"),
    ({"samples": nested()}, "latent_image: several parts"),
    ({"samples": torch.zeros(1, 3, SIDE, SIDE), "noise_mask": torch.zeros(0, SIDE, SIDE)}, "latent_image: its noise"),
    ({"samples": torch.zeros(1, 3, SIDE, SIDE), "noise_mask": torch.full((1, SIDE, SIDE), float("nan"))},
     "latent_image: its noise mask"),
])
def test_latents_that_cannot_be_sampled_are_refused(loaded, three, latent, message):
    with pytest.raises(ValueError, match=message):
        sampled(loaded.model, three[0], three[2], MASK, latent)


# Steps that a cache skips


@pytest.mark.parametrize("node, name", [(EasyCacheNode, "EasyCache"), (LazyCacheNode, "LazyCache")])
def test_skipped_steps_are_told(loaded, three, node, name):
    calls, model = [], loaded.model.clone()
    model = node.execute(model, 3.0, 0.0, 1.0, False).result[0]
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", lambda executor, *args, **kwargs: (
        calls.append(1), executor(*args, **kwargs))[1])
    _, report = sampled(model, three[0], three[2], MASK, steps=8)
    assert len(calls) < 8
    assert f"{name} skipped {8 - len(calls)} of 8 evaluations of the model" in report.notes


def test_masks_that_are_not_read_are_told(loaded, three):
    full, mask_only, neither = three
    other = [[text, {**options, "mdit_mask.other": options["mdit_mask"]}] for text, options in full]
    for positive, negative, told in ((other, neither, "positive: it holds a mask for another adapter"),
                                     (neither, mask_only, "negative: its mask is not read"), (full, mask_only, None)):
        notes = [note for note in sampled(loaded.model, positive, negative, MASK, steps=1)[1].notes
                 if note.startswith(("positive", "negative"))]
        assert [note.startswith(told or " ") for note in notes] == ([True] if told else [])


def test_skipped_steps_of_an_unknown_cache_are_told(loaded, three):
    model, last = loaded.model.clone(), []

    def every_other(executor, *args, **kwargs):
        last.append(last[-1] if len(last) % 2 else executor(*args, **kwargs))
        return last[-1]
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "foreign", every_other)
    _, report = sampled(model, three[0], three[2], MASK, steps=4)
    assert "another node skipped 2 of 4 evaluations of the model" in report.notes
    assert "skipped" not in str(sampled(loaded.model, three[0], three[2], MASK)[1])


# What other nodes made for other models


def with_control(conditioning):
    control = comfy.controlnet.ControlBase()
    return [[text, {**extra, "control": control, "control_apply_to_uncond": True}] for text, extra in conditioning]


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_controlnet_on_the_stand_alone_model_is_refused(loaded, texts, three, with_mask):
    positive = with_control(three[0] if with_mask else texts[0])
    with pytest.raises(ValueError, match="conditioning: it holds a ControlNet made for other models"):
        sampled(loaded.model, positive, texts[1], MASK)
    with pytest.raises(ValueError, match="conditioning: it holds a ControlNet made for other models"):
        by_the_host(loaded.model, texts[0], with_control(texts[1]))


def test_code_for_another_network_is_named(loaded, texts, three, tmp_path):
    """TeaCache replaces a method of FLUX in a function around the model."""
    (tmp_path / "foreign.py").write_text("""
from unittest.mock import patch

def around(apply, args):
    with patch.multiple(args["c"]["transformer_options"]["network"], forward_orig=print):
        return apply(args["input"], args["timestep"], **args["c"])
""")
    spec = importlib.util.spec_from_file_location("custom_nodes.foreign", tmp_path / "foreign.py")
    foreign = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(foreign)
    model = loaded.model.clone()
    model.model_options["transformer_options"]["network"] = model.model.diffusion_model
    model.set_model_unet_function_wrapper(foreign.around)
    for positive in (texts[0], three[0]):
        with pytest.raises(ValueError, match=r"model: code of another node \(custom_nodes.foreign\).*forward_orig"):
            sampled(model, positive, texts[1], MASK)


def test_errors_of_the_pack_and_the_host_stay_as_they_are(loaded, three, monkeypatch):
    monkeypatch.setattr(loaded.model.model, "apply_model", {}.pop)  # has no frame of its own in the traceback
    with pytest.raises(TypeError, match="pop"):
        sampled(loaded.model, three[0], three[2], MASK)


def test_patches_without_effect_are_told(loaded, three, caplog):
    model = loaded.model.clone()
    model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v))
    model.set_model_patch(lambda args: args, "double_block")
    _, report = sampled(model, three[0], three[2], MASK)
    note = "without effect on a stand-alone MDiT: patches of another node for attn2_patch (made for other models)"
    assert note in report.notes and note in caplog.text
    assert "without effect" not in str(sampled(loaded.model, three[0], three[2], MASK)[1])
