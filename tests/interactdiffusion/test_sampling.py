"""Interactions in runs of the host's samplers, compared with the reference's guidance and fuser."""
import copy
import threading
import time

import pytest
import torch

import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.sd
import node_helpers
import nodes
from bench.costs.plain import run_plain_fuser
from comfy.cldm.cldm import ControlNet
from comfy.ldm.modules import attention
from comfy_extras import nodes_custom_sampler
from mditface.mdit.interactdiffusion.encode import EncodedInteractions
from mditface.mdit.interactdiffusion.model import Fuser
from mditface.mdit.interactdiffusion.patch import KEY, BoundInteractions, Reading, apply_interactions
from mditface.mdit.interactdiffusion.schedule import ScheduleBySteps, ScheduleByTimestep
from mditface.tests.interactdiffusion import tiny
from mditface.tests.shared.reloading import OTHER

CLOSE = dict(rtol=0, atol=2e-3)  # values reach 100, and steps amplify rounding
EFFECT = 0.1
LATENT = (1, 4, 8, 12)
STEPS = 3
ALWAYS = Reading(schedule=ScheduleBySteps())


@pytest.fixture(scope="module")
def given() -> EncodedInteractions:
    return tiny.encoded(tiny.FEEDING, tiny.HOLDING)


def run(model, positive=tiny.text(0), negative=tiny.text(1), latent=LATENT, cfg=3.0, sampler="euler", denoise=1.0,
        steps=STEPS, seed=0):
    latent = torch.zeros(latent) if isinstance(latent, tuple) else latent
    (out,) = nodes.common_ksampler(model, seed, steps, cfg, sampler, "simple", positive, negative, {"samples": latent},
                                   denoise)
    return out["samples"]


def reference(model, weights, positive, negative=None):
    """A clone of the model with the plain fuser in each block. The host's list of halves gives each row its tokens."""
    network, seen = weights.network, []
    tokens = [network.position_net(one.to_grounding(network.sizes))
              for one in (positive, negative or tiny.nothing(weights))]

    def patch(x, options):
        halves = options["cond_or_uncond"]
        seen.append(tuple(halves))
        rows = torch.cat([tokens[half].expand(x.shape[0] // len(halves), -1, -1) for half in halves])
        return run_plain_fuser(network.fusers[options["transformer_index"]], x, rows, 1.0)
    model = model.clone()
    model.set_model_patch(patch, "middle_patch")
    return model, seen


@pytest.mark.parametrize("length, halves", [(11, {(1, 0)}), (13, {(0,), (1,)})])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_negative_reads_null_tokens(base, weights, given, length, halves, batch):
    """In one call with the positive, and in a separate call if the texts cannot be concatenated."""
    latent = (batch, *LATENT[1:])
    plain, seen = reference(base, weights, given)
    expected = run(plain, negative=tiny.text(1, length), latent=latent)
    assert set(seen) == halves
    found = run(apply_interactions(base, weights, given, ALWAYS), negative=tiny.text(1, length), latent=latent)
    torch.testing.assert_close(found, expected, **CLOSE)
    same_tokens, _ = reference(base, weights, given, given)
    wrong = run(same_tokens, negative=tiny.text(1, length), latent=latent)
    assert (wrong - expected).abs().max() > EFFECT


def test_without_guidance(base, weights, given):
    expected = run(reference(base, weights, given)[0], cfg=1.0)
    torch.testing.assert_close(run(apply_interactions(base, weights, given, ALWAYS), cfg=1.0), expected, **CLOSE)


@pytest.mark.parametrize("kernel", ["attention_pytorch", "attention_sub_quad"])
def test_each_attention_of_the_host(base, weights, given, kernel, monkeypatch):
    from mditface.mdit.interactdiffusion import model
    monkeypatch.setattr(model, "optimized_attention", getattr(attention, kernel))
    expected = run(reference(base, weights, given)[0])
    torch.testing.assert_close(run(apply_interactions(base, weights, given, ALWAYS)), expected, **CLOSE)


@pytest.mark.parametrize("reading", [Reading(strength=0.0), Reading(schedule=ScheduleBySteps(0.0)),
                                     Reading(schedule=ScheduleByTimestep(0.0, 0.0)), Reading(start=0.999)])
def test_no_strength_is_the_bare_model_bit_for_bit(base, weights, given, reading):
    found = run(apply_interactions(base, weights, given, reading))
    assert torch.equal(found, run(base))


def test_no_interactions_are_the_bare_model_bit_for_bit(base, weights):
    assert torch.equal(run(apply_interactions(base, weights)), run(base))


def effect(model, base, **how) -> float:
    return (run(model, **how) - run(base, **how)).abs().max().item()


def test_keys_are_computed_once_a_run(base, weights, given, monkeypatch):
    calls = []
    project = Fuser.project_tokens

    def spy(self, tokens):
        calls.append(self)
        return project(self, tokens)
    monkeypatch.setattr(Fuser, "project_tokens", spy)
    model = apply_interactions(base, weights, given, ALWAYS)
    run(model)
    assert len(calls) == 2 * len(tiny.BLOCKS)  # the positive's and the null tokens'
    run(model, seed=1)
    assert len(calls) == 4 * len(tiny.BLOCKS)


def test_a_fuser_without_strength_is_skipped(base, weights, given, monkeypatch):
    calls = []
    forward = Fuser.forward
    monkeypatch.setattr(Fuser, "forward", lambda self, *args: (calls.append(self), forward(self, *args))[1])
    run(apply_interactions(base, weights, given, Reading(schedule=ScheduleBySteps(0.5))), steps=4)
    assert len(calls) == 2 * len(tiny.BLOCKS)
    calls.clear()
    run(apply_interactions(base, weights, given, Reading(end=0.5, schedule=ScheduleBySteps())), steps=4)
    assert 0 < len(calls) < 4 * len(tiny.BLOCKS)


@pytest.mark.parametrize("sampler, denoise", [("heun", 1.0), ("dpmpp_2m_sde", 1.0), ("euler", 0.5)])
def test_samplers_and_image_to_image(base, weights, given, sampler, denoise):
    latent = torch.randn(LATENT, generator=torch.Generator().manual_seed(3))
    how = dict(sampler=sampler, denoise=denoise, latent=latent)
    expected = run(reference(base, weights, given)[0], **how)
    model = apply_interactions(base, weights, given, ALWAYS)
    torch.testing.assert_close(run(model, **how), expected, **CLOSE)
    assert effect(model, base, **how) > EFFECT


def test_a_second_pass_of_another_size(base, weights, given):
    model = apply_interactions(base, weights, given, ALWAYS)
    plain, _ = reference(base, weights, given)
    larger = [run(one, latent=torch.nn.functional.interpolate(run(one), scale_factor=2), denoise=0.6)
              for one in (model, plain)]
    torch.testing.assert_close(*larger, **CLOSE)


def test_a_changed_base(base, weights, given):
    """A LoRA before and after the node, and other weights of the same form."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    lora = {f"{key}.lora_up.weight": torch.ones(64, 1), f"{key}.lora_down.weight": torch.ones(1, 64)}

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    expected = run(reference(with_lora(base), weights, given)[0])
    for model in (apply_interactions(with_lora(base), weights, given, ALWAYS),
                  with_lora(apply_interactions(base, weights, given, ALWAYS))):
        torch.testing.assert_close(run(model), expected, **CLOSE)
    other = tiny.base(seed=9)
    expected = run(reference(other, weights, given)[0])
    torch.testing.assert_close(run(apply_interactions(other, weights, given, ALWAYS)), expected, **CLOSE)


def test_other_middle_patches_go_on(base, weights, given):
    """GLIGEN's conditioning and other nodes add patches at the same point."""
    model, called = base.clone(), []
    model.set_model_patch(lambda x, options: (called.append(1), 0.9 * x)[1], "middle_patch")
    both = apply_interactions(model, weights, given, ALWAYS)
    assert effect(both, model) > EFFECT
    assert called


def own(conditioning, *interactions):
    return node_helpers.conditioning_set_values(conditioning, {KEY: tiny.encoded(*interactions)})


def test_a_conditioning_of_its_own(base, weights, given):
    """It replaces the model's, also on a negative prompt, and works without any of the model's."""
    alone = run(apply_interactions(base, weights, tiny.encoded(tiny.HOLDING), ALWAYS))
    for shared in (None, tiny.encoded(tiny.FEEDING)):
        model = apply_interactions(base, weights, shared, ALWAYS)
        torch.testing.assert_close(run(model, own(tiny.text(0), tiny.HOLDING)), alone, **CLOSE)
    expected = run(reference(base, weights, given, tiny.encoded(tiny.HOLDING))[0])
    found = run(apply_interactions(base, weights, given, ALWAYS), negative=own(tiny.text(1), tiny.HOLDING))
    torch.testing.assert_close(found, expected, **CLOSE)


def test_three_prompts_in_one_call(base, weights):
    """Two halves of the image by masks, each with its own interaction, compared with a run for each."""
    model = apply_interactions(base, weights, None, ALWAYS)
    left = torch.zeros(1, 64, 96)
    left[..., :48] = 1
    parts = [node_helpers.conditioning_set_values(own(tiny.text(i), one), {"mask": mask, "mask_strength": 1.0})
             for i, (one, mask) in enumerate([(tiny.FEEDING, left), (tiny.HOLDING, 1 - left)])]
    batches = []
    counting = model.clone()
    counting.set_model_unet_function_wrapper(
        lambda apply, args: (batches.append(len(args["cond_or_uncond"])), apply(args["input"], args["timestep"],
                                                                                **args["c"]))[1])
    both = run(counting, parts[0] + parts[1], steps=1)
    assert batches == [3]
    single = [run(model, own(tiny.text(i), one), steps=1) for i, one in enumerate((tiny.FEEDING, tiny.HOLDING))]
    expected = torch.cat((single[0][..., :6], single[1][..., 6:]), dim=-1)
    torch.testing.assert_close(both, expected, **CLOSE)


def test_an_area_sees_its_part_of_the_boxes(base, weights):
    """The right half of the image: most of FEEDING is left of it, so it is dropped; HOLDING is moved."""
    model = apply_interactions(base, weights, None, ALWAYS)
    area = {"area": (8, 6, 0, 6), "strength": 1.0}
    given = own(tiny.text(0), tiny.FEEDING._replace(subject_box=(0.05, 0.2, 0.5, 0.75)), tiny.HOLDING)
    moved = tiny.HOLDING._replace(subject_box=(0.0, 0.1, 0.9, 0.9), object_box=(0.1, 0.2, 0.4, 0.35))
    noise = torch.randn(LATENT, generator=torch.Generator().manual_seed(4))

    def one_step(positive, noise):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, tiny.text(1))
        return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"),
                             torch.tensor([14.6, 0.0]))
    found = one_step(node_helpers.conditioning_set_values(given, area), noise)[..., 6:]
    torch.testing.assert_close(found, one_step(own(tiny.text(0), moved), noise[..., 6:]), **CLOSE)


def test_two_guidances(base, weights, given):
    """A guider with a third prompt, which is a positive one."""
    model = apply_interactions(base, weights, given, ALWAYS)
    guider = nodes_custom_sampler.Guider_DualCFG(model)
    guider.set_conds(tiny.text(0), tiny.text(2), tiny.text(1))
    guider.set_cfg(3.0, 2.0)
    choose = model.wrappers["outer_sample"][KEY][0].__self__
    kinds = {kind: choose.choose(kind, {}) for kind in ("positive", "middle", "negative", "empty_negative_prompt")}
    assert [kinds[kind] is given for kind in kinds] == [True, True, False, False]
    step = torch.ones(LATENT), torch.zeros(LATENT), comfy.samplers.ksampler("euler"), torch.tensor([14.6, 0.0])
    found, plain, alone = guider.sample(*step), comfy.samplers.CFGGuider(model), []
    for text, cfg in ((tiny.text(0), 1.0), (tiny.text(2), 1.0), (None, 0.0)):
        plain.set_conds(text or tiny.text(0), tiny.text(1))
        plain.set_cfg(cfg)
        alone.append(plain.sample(*step))
    positive, middle, negative = alone
    expected = negative + 2.0 * (middle - negative) + 3.0 * (positive - middle)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_the_host_loads_and_counts_the_weights(base, weights, given):
    comfy.model_management.unload_all_models()
    run(apply_interactions(base, weights, given, Reading(strength=0.0)))
    assert weights.network not in held()
    run(apply_interactions(base, weights, given, ALWAYS))
    assert weights.network in held()
    assert weights.patcher.model_size() >= sum(weight.nbytes for weight in weights.network.parameters())
    comfy.model_management.unload_all_models()
    assert weights.network not in held()


def held() -> list:
    return [model.real_model() for model in comfy.model_management.current_loaded_models]


def test_nothing_is_left_after_a_run(base, weights, given):
    model = apply_interactions(base, weights, given, ALWAYS)
    before = dict(model.model_options["transformer_options"])
    run(model)
    assert model.model_options["transformer_options"] == before
    assert KEY not in base.wrappers.get("outer_sample", {})


def test_a_node_that_cuts_the_latent_is_refused(base, weights, given):
    model = apply_interactions(base, weights, given, ALWAYS)
    model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"][..., :4], args["timestep"],
                                                                    **args["c"]))
    with pytest.raises(ValueError, match="tiled sampling"):
        run(model)


def test_a_compiled_model_is_refused(base, weights, given):
    compiled = base.clone()
    compiled.add_wrapper_with_key("apply_model", "torch.compile", lambda executor, *args, **kwargs: executor(
        *args, **kwargs))
    run(apply_interactions(compiled, weights))
    with pytest.raises(ValueError, match="model: it is compiled"):
        run(apply_interactions(compiled, weights, given))


def test_a_controlnet_alongside(base, weights, given):
    network = ControlNet(**{key: value for key, value in tiny.UNET.items() if key not in (
        "out_channels", "transformer_depth_output")}, hint_channels=3, dtype=torch.float32,
        operations=comfy.ops.disable_weight_init)
    network.load_state_dict(tiny.random_weights(network, 5))
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))
    hint = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(6))
    both = nodes.ControlNetApplyAdvanced().apply_controlnet(tiny.text(0), tiny.text(1), control, hint, 0.5, 0.0, 1.0)
    how = dict(zip(("positive", "negative"), both))
    model = apply_interactions(base, weights, given, ALWAYS)
    torch.testing.assert_close(run(model, **how), run(reference(base, weights, given)[0], **how), **CLOSE)
    assert effect(model, base, **how) > EFFECT
    assert (run(model, **how) - run(model)).abs().max() > EFFECT


def test_too_many_interactions(base, weights):
    many = [tiny.FEEDING] * (tiny.SIZES.slots + 1)
    apply_interactions(base, weights, tiny.encoded(*many[1:]))
    with pytest.raises(ValueError, match="interactions: there are 31, the weights have room for 30"):
        apply_interactions(base, weights, tiny.encoded(*many))
    with pytest.raises(ValueError, match="interactions: there are 31"):
        run(apply_interactions(base, weights), own(tiny.text(0), *many))


def test_models_that_do_not_fit(base, weights, given):
    with pytest.raises(ValueError, match="4 attention blocks of widths .* for text 24 wide, the weights .* 48 wide"):
        apply_interactions(tiny.base(context_dim=24), weights, given)
    with pytest.raises(ValueError, match="has no UNet"):
        device = torch.device("cpu")
        apply_interactions(comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), device, device), weights, given)
    with pytest.raises(ValueError, match="already applied to it"):
        apply_interactions(apply_interactions(base, weights, given), weights, given)


def test_text_encoders_that_do_not_fit(base, weights):
    other = EncodedInteractions((tiny.FEEDING,), torch.zeros(3, 1, 1280))
    with pytest.raises(ValueError, match="clip: its pooled feature is 1280 wide, the weights need 40"):
        apply_interactions(base, weights, other)


# Several devices


@pytest.fixture
def two_devices():
    """Gives a MODEL the host's multi-GPU: its copy on a second device of the CPU's computes half of the conditions."""
    def copy_model(model):
        twin = model.clone(model_override=tiny.base.__wrapped__().get_clone_model_override())
        twin.load_device, twin.is_multigpu_base_clone = OTHER, True
        model.set_additional_models("multigpu", [twin])
        return model
    return copy_model


@pytest.mark.parametrize("cfg", [3.0, 1.0])
def test_two_devices_give_the_result_of_one(base, weights, given, two_devices, cfg):
    texts = [*tiny.text(0), *tiny.text(2)]
    model = apply_interactions(base, weights, given, ALWAYS)
    torch.testing.assert_close(run(two_devices(model.clone()), texts, cfg=cfg), run(model, texts, cfg=cfg), **CLOSE)
    assert list(weights.copies.others) == [OTHER]
    loaded = comfy.model_management.loaded_models()
    assert all(any(one is patcher for one in loaded) for patcher in (weights.patcher, weights.copies.others[OTHER]))


def test_kept_keys_are_those_of_the_network_device_and_type(weights, given):
    bound, other = BoundInteractions(given, LATENT[-2:]), copy.deepcopy(weights.network)
    x = torch.zeros(1, 4, 32)
    first = bound.find_entry(weights.network, 0, None, x)
    assert bound.find_entry(weights.network, 0, None, x) is first
    assert bound.find_entry(other, 0, None, x) is not first
    assert bound.find_entry(weights.network, 0, None, x.double())[0].dtype == torch.float64
    meta = bound.find_entry(weights.network, 0, None, x.to("meta"))
    assert meta[0].device.type == "meta" and first[0].device.type == "cpu"


def test_threads_compute_an_entry_once(weights, given, monkeypatch):
    computed, project = [], Fuser.project_tokens

    def slow(self, tokens):
        computed.append(1)
        time.sleep(0.05)
        return project(self, tokens)
    monkeypatch.setattr(Fuser, "project_tokens", slow)
    bound = BoundInteractions(given, LATENT[-2:])
    threads = [threading.Thread(target=bound.find_entry, args=(weights.network, 0, None, torch.zeros(1, 4, 32)))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [1]
