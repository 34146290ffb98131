"""MMFace-DiT in runs of the host: masks, sketches, batches, regions, guidance, LoRA, hooks."""
import pytest
import torch

import comfy.controlnet
import comfy.model_management
import comfy.samplers
import comfy.sd
import node_helpers
import nodes
from comfy_extras.nodes_custom_sampler import BasicScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow, ModelSamplingFlux, ModelSamplingSD3
from mditface.mdit.mditface.guidance import DualGuider, Guidance
from mditface.mdit.mditface.pictures import PictureInput
from mditface.mdit.mmface import host, wrappers
from mditface.mdit.mmface.model import compute_flow_time
from mditface.nodes.conditioning import ApplyMask
from mditface.nodes.sampling import ExactSigmas, Sampler
from mditface.tests.mmface import tiny
from mditface.tests.mmface.runs import SIDE, CountingVAE, condition, label_maps, mask, prompt, sample, sketch
from mditface.tests.mmface.tiny import normal
from mditface.tests.shared import hooks

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

CLOSE = dict(rtol=0, atol=1e-4)


def test_mask_and_sketch_change_the_image(loaded):
    plain = sample(loaded)
    images = [sample(loaded, *condition(mask=mask())), sample(loaded, *condition(sketch=sketch()))]
    images.append(sample(loaded, *condition(mask=mask(seed=1))))
    for i, image in enumerate(images):
        for other in (plain, *images[:i]):
            assert not torch.allclose(image, other, atol=1e-2)


def test_no_condition_is_the_text_only_mode(loaded):
    assert torch.equal(sample(loaded, *condition()), sample(loaded))
    applied = ApplyMask.execute(prompt(), mask(vae=CountingVAE()), strength=0.0).args[0]
    assert torch.equal(sample(loaded, applied), sample(loaded))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_stock_samplers_walk_along_the_guided_predictions(loaded, sampler):
    vae, noise = CountingVAE(), normal(1, 16, SIDE, SIDE)
    found = sample(loaded, *condition(vae=vae, mask=mask()), noise=noise, sampler=sampler)
    torch.testing.assert_close(found, walk(loaded, noise, vae, sampler), rtol=1e-4, atol=2e-4)


def walk(patcher, noise, vae, sampler, steps=2, cfg=2.0):
    """A run of a sampler on the bare network, its two predictions guided by hand."""
    base = patcher.model
    (positive, _) = condition(vae=vae, mask=mask())
    latent = base.process_latent_in(positive[0][1]["mdit_mask.mmface"].picture.encode(8 * SIDE, 8 * SIDE))

    def predict(x, sigma, **_):
        cond, uncond = (base.apply_model(x, sigma, latent, text, y=extra["pooled_output"], modality=torch.tensor([0]))
                        for ((text, extra),) in (prompt(), prompt(1)))
        return uncond + cfg * (cond - uncond)
    schedule = comfy.samplers.KSampler(patcher, steps, "cpu", sampler, "simple").sigmas
    sampling = patcher.get_model_object("model_sampling")
    start = sampling.noise_scaling(schedule[0], noise, torch.zeros_like(noise), max_denoise=True)
    out = comfy.samplers.sampler_object(sampler).sampler_function(predict, start, schedule, extra_args={}, disable=True)
    return base.process_latent_out(sampling.inverse_noise_scaling(schedule[-1], out))


def test_the_general_mask_nodes_give_the_same(loaded):
    vae = CountingVAE()
    own = sample(loaded, *condition(vae=vae, mask=mask()))
    general = [ApplyMask.execute(texts, mask(vae=vae), strength=1.0).args[0] for texts in (prompt(), prompt(1))]
    assert torch.equal(sample(loaded, *general), own)


def test_a_picture_is_a_sketch(loaded):
    """Also one of 'Picture to Mask (MDiT)', under either node."""
    vae = CountingVAE()
    expected = sample(loaded, *condition(vae=vae, sketch=sketch()))
    picture = PictureInput(sketch(), vae=vae)
    general = [ApplyMask.execute(texts, picture, strength=1.0).args[0] for texts in (prompt(), prompt(1))]
    for found in (condition(vae=vae, mask=picture), general):
        assert torch.equal(sample(loaded, *found), expected)


def test_a_batch_equals_its_rows(loaded):
    noise, vae = normal(2, 16, SIDE, SIDE), CountingVAE()
    together = sample(loaded, *condition(vae=vae, mask=mask(2)), noise=noise)
    maps = label_maps(2)
    for i in range(2):
        one = mask()
        one.labels = maps[i:i + 1]
        alone = sample(loaded, *condition(vae=vae, mask=one), noise=noise[i:i + 1])
        torch.testing.assert_close(together[i:i + 1], alone, **CLOSE)


def test_rows_taken_one_by_one_keep_their_masks(loaded):
    noise, both = normal(2, 16, SIDE, SIDE), condition(mask=mask(2))
    split = hooks.split_rows(lambda count: [[i] for i in reversed(range(count))])(loaded)
    torch.testing.assert_close(sample(split, *both, noise=noise), sample(loaded, *both, noise=noise), **CLOSE)


def test_two_conditionings_with_regions(loaded):
    """The left half follows one mask, the right half another."""
    vae, size = CountingVAE(), (1, 16, SIDE, 2 * SIDE)
    halves = []
    for i in range(2):
        positive, negative = condition(vae=vae, mask=mask(seed=i))
        (area,) = nodes.ConditioningSetArea().append(positive, 8 * SIDE, 8 * SIDE, i * 8 * SIDE, 0, 1.0)
        halves += area
    both = sample(loaded, halves, negative, size=size)
    (one_area,) = nodes.ConditioningSetArea().append(positive, 8 * SIDE, 8 * SIDE, 0, 0, 1.0)
    one = sample(loaded, [*one_area, halves[1]], negative, size=size)
    assert not torch.allclose(both, one, atol=1e-3)


def test_a_region_reads_its_part_of_the_mask(flow):
    """A mask's area is cut out of the latent of the whole mask."""
    seen = []
    model = flow.clone()
    model.set_model_unet_function_wrapper(lambda apply, args: seen.append(args["c"]["c_concat"]) or apply(
        args["input"], args["timestep"], **args["c"]))
    positive, negative = condition(mask=mask())
    (area,) = nodes.ConditioningSetArea().append(positive, 32, 32, 32, 0, 1.0)
    sample(model, area, negative, steps=1, size=(1, 16, SIDE, SIDE))
    small, whole = sorted(seen, key=torch.numel)
    torch.testing.assert_close(small[0], whole[0][:, :4, 4:])


def test_a_second_pass_in_another_size_reads_the_map_again(flow):
    vae = CountingVAE()
    both = condition(vae=vae, mask=mask())
    sample(flow, *both)
    sample(flow, *both, size=(1, 16, SIDE, 2 * SIDE))
    assert vae.encoded == 2
    sample(flow, *both)
    assert vae.encoded == 2


def test_a_general_mask_keeps_its_latents(flow):
    vae = CountingVAE()
    applied = ApplyMask.execute(prompt(), mask(vae=vae), strength=1.0).args[0]
    sample(flow, applied, applied)
    sample(flow, applied)
    assert vae.encoded == 1


def test_sides_that_are_no_whole_patches(flow):
    found = sample(flow, *condition(mask=mask()), size=(1, 16, 7, 9))
    assert found.shape == (1, 16, 7, 9) and found.isfinite().all()


def test_outside_its_range_a_condition_is_not_read(loaded):
    whole = sample(loaded, *condition(mask=mask()), steps=4)
    plain = sample(loaded, steps=4)
    early = sample(loaded, *condition(mask=mask(), end=0.5), steps=4)
    for other in (whole, plain):
        assert not torch.allclose(early, other, atol=1e-3)
    kept = sample(loaded, *condition(mask=mask(), start=0.9999), steps=4)
    torch.testing.assert_close(kept, plain, **CLOSE)
    general = [ApplyMask.execute(texts, mask(vae=CountingVAE()), strength=1.0, end=0.5).args[0]
               for texts in (prompt(), prompt(1))]
    assert torch.equal(sample(loaded, *general, steps=4), early)


def test_unloading_in_between_changes_nothing(loaded):
    both = condition(mask=mask())
    before = sample(loaded, *both)
    comfy.model_management.unload_all_models()
    assert torch.equal(sample(loaded, *both), before)


def test_an_interrupt_leaves_the_next_run_right(flow):
    both = condition(mask=mask())
    before = sample(flow, *both)

    def interrupt(*args):
        raise comfy.model_management.InterruptProcessingException
    stopped = flow.clone()
    stopped.set_model_sampler_post_cfg_function(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped, *both)
    assert torch.equal(sample(flow, *both), before)


# Guidance, reports and schedules


def test_two_scales_of_guidance(loaded):
    """docs/design/mmface-dit.md, section 6, in one step; a mask in the negative does not matter."""
    positive, negative = condition(mask=mask())
    seen = {}
    guider = DualGuider(loaded.clone())
    guider.set_conds(positive, negative)
    guider.set_guidance(Guidance(text=3.0, mask=2.0))
    noise = normal(1, 16, SIDE, SIDE)
    sigmas = comfy.samplers.KSampler(loaded, 1, "cpu", "euler", "simple").sigmas
    found = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), sigmas,
                          disable_pbar=True)
    masked_negative = condition(negative, negative, mask=mask())[1]
    for name, texts in (("mt", positive), ("m0", masked_negative), ("00", prompt(1))):
        seen[name] = sample(loaded, texts, cfg=1.0, steps=1, noise=noise)
    expected = seen["00"] + 2.0 * (seen["m0"] - seen["00"]) + 3.0 * (seen["mt"] - seen["m0"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_report_says_what_was_read_and_kept(flow):
    def report(**options):
        positive, negative = condition(**options)
        latent = {"samples": torch.zeros(1, 16, SIDE, SIDE)}
        return Sampler.execute(flow, 0, 1, 2.0, 1.0, "euler", "simple", positive, negative, latent).args[1]
    said = report(mask=mask())
    assert "MMFace-DiT: mask read beside the latent at each step; nothing cached, as it is 0.01 % of a step" in said
    assert "64 x 64 px: the published files were trained on 256 x 256 or 512 x 512" in said
    assert "sketch 64 x 48 stretched to 64 x 64" in report(sketch=sketch())
    assert "no condition read" in report()


def test_exact_sigmas(loaded):
    sigmas = ExactSigmas.execute(loaded, 37).args[0]
    name = "simple" if loaded.model.config.objective == "flow" else "sgm_uniform"
    steps = 40 if name == "simple" else 37  # a divisor of 1000, of 999
    exact = ExactSigmas.execute(loaded, steps).args[0]
    torch.testing.assert_close(exact, BasicScheduler.execute(loaded, name, steps, 1.0).args[0], rtol=1e-4, atol=1e-5)
    assert len(sigmas) == 38 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()
    part = ExactSigmas.execute(loaded, 10, 0.25).args[0]
    torch.testing.assert_close(part, exact[-11:] if name == "simple" else ExactSigmas.execute(loaded, 40).args[0][-11:])


@pytest.mark.parametrize("patch", [
    lambda model: ModelSamplingSD3().patch(model, 1.0)[0],
    lambda model: ModelSamplingAuraFlow().patch_aura(model, 1.0)[0],
    lambda model: ModelSamplingFlux().patch(model, 0.0, 0.0, 512, 512)[0]], ids=["SD3", "AuraFlow", "Flux"])
def test_every_multiplier_gives_the_same_time(flow, patch):
    both, noise = condition(mask=mask()), normal(1, 16, SIDE, SIDE)
    sigmas = torch.tensor([1.0, 0.6, 0.2, 0.0])

    def run(model):
        return comfy.sample.sample_custom(model, noise, 2.0, comfy.samplers.sampler_object("euler"), sigmas, *both,
                                          torch.zeros_like(noise), disable_pbar=True)
    torch.testing.assert_close(run(patch(flow)), run(flow), **CLOSE)


def test_the_time_is_rounded_as_in_training(file, flow):
    tau = torch.tensor([0.0, 0.1234, 0.777, 1.0])
    assert compute_flow_time(tau, "exact").tolist() == pytest.approx([999 * t for t in tau.tolist()])
    assert compute_flow_time(tau, "as trained")[2] % 4 == 0
    exact = host.load_mmface(file, torch.float32, "flow", "exact")
    assert not torch.equal(sample(exact, steps=3), sample(flow, steps=3))


# The guard of the objective


def predict_noise(x, out_sign):
    """A network that knows nothing but the noise: what a trained one gives at the start."""
    return out_sign * x[:, :16]


@pytest.mark.parametrize("trained", ["flow", "diffusion"])
def test_a_wrong_objective_is_refused(loaded, monkeypatch, trained):
    chosen = loaded.model.config.objective
    sign = 1 if trained == "diffusion" else -1
    monkeypatch.setattr(loaded.model.diffusion_model, "predict", lambda x, *args: predict_noise(x, sign))
    if trained == chosen:
        assert sample(loaded).isfinite().all()
        return
    with pytest.raises(ValueError, match=f"objective: .*no '{chosen}': choose '{trained}'"):
        sample(loaded)


def test_the_guard_is_silent_where_little_noise_is_left(flow, monkeypatch):
    """There the direction says nothing."""
    monkeypatch.setattr(flow.model.diffusion_model, "predict", lambda x, *args: predict_noise(x, 1))
    noise = normal(1, 16, SIDE, SIDE)
    comfy.sample.sample(flow, noise, 4, 2.0, "euler", "simple", prompt(), prompt(1), torch.zeros_like(noise),
                        denoise=0.3)


# Errors


@pytest.mark.parametrize("texts, message", [
    (prompt(width=77), "text 77 wide, this model needs 64: .*'Load MMFace-DiT CLIP'"),
    ([[normal(1, 6, 64), {}]], "no pooled text, this model needs 64"),
    ([[normal(1, 6, 64), {"pooled_output": normal(1, 32)}]], "pooled text 32 wide, this model needs 64")])
def test_text_of_another_encoder_is_refused(flow, texts, message):
    with pytest.raises(ValueError, match=message):
        sample(flow, texts)


@pytest.mark.parametrize("make, message", [
    (lambda: condition(mask=mask(), sketch=sketch()), "mask, sketch: both are connected"),
    (lambda: condition(mask=mask(), start=0.5, end=0.5), "start: 0.5 is not below end"),
    (lambda: condition(positive=prompt(), vae=CountingVAE(4), mask=mask()),
     r"vae: the one at 'Condition MMFace-DiT' makes latents \(4, 8, 8\) of 64 x 64 pixels"),
    (lambda: condition(mask=mask(3)), "latent_image: 1 latents, but 3 pictures"),
    (lambda: (ApplyMask.execute(prompt(), mask(), strength=1.0).args[0], prompt(1)),
     r"vae: .*'vae' input of 'Label Map to Mask \(MDiT\)'"),
    (lambda: (ApplyMask.execute(prompt(), mask(), strength=0.5).args[0], prompt(1)),
     "strength: MMFace-DiT reads a mask whole, not with 0.5"),
    (lambda: condition(mask=PictureInput(sketch(), "OminiControl subject, 32 columns left", None)),
     r"placement: .*choose 'on the image' at 'Picture to Mask \(MDiT\)'"),
])
def test_conditions_that_do_not_fit_are_refused(flow, make, message):
    with pytest.raises(ValueError, match=message):
        sample(flow, *make())


@pytest.mark.parametrize("made, title", [({"control": comfy.controlnet.ControlBase()}, "a ControlNet"),
                                         ({"gligen": object()}, "GLIGEN boxes")])
def test_what_is_made_for_other_models_is_refused(flow, made, title):
    with pytest.raises(ValueError, match=f"conditioning: it holds {title} made for other models, which MMFace-DiT"):
        sample(flow, prompt(**made))


@pytest.mark.parametrize("size", [(1, 4, 8, 8), (1, 16, 2, 8, 8)])
def test_latents_of_another_kind_are_refused(flow, size):
    noise = normal(*size)
    with pytest.raises(ValueError, match="latent_image: its shape is .*FLUX's VAE"):
        comfy.sample.sample(flow, noise, 1, 1.0, "euler", "simple", prompt(), prompt(1), noise)


def test_the_objective_is_not_checked_without_the_hosts_run(flow):
    assert wrappers.GUARD_KEY not in flow.model_options["transformer_options"]


# What other nodes add


def test_prompts_of_other_lengths_share_a_run_without_changing(flow):
    """The host would repeat the shorter one, which changes the joint attention."""
    noise = normal(1, 16, SIDE, SIDE)
    together = sample(flow, prompt(length=6), prompt(1, length=3), cfg=2.0, steps=1, noise=noise)
    long, short = (sample(flow, texts, cfg=1.0, steps=1, noise=noise)
                   for texts in (prompt(length=6), prompt(1, length=3)))
    torch.testing.assert_close(together, short + 2.0 * (long - short), **CLOSE)


@pytest.mark.parametrize("load", [comfy.sd.load_lora_for_models, comfy.sd.load_bypass_lora_for_models],
                         ids=["patched", "bypass"])
def test_a_lora_in_the_hosts_naming_equals_merged_weights(tmp_path, file, load):
    flow = host.load_mmface(file, torch.float32, "flow")
    layers = {"blocks.0.attn.to_q": "diffusion_model.", "blocks.1.attn.to_out_t": "lora_unet_",
              "blocks.0.mlp_i.0": "diffusion_model.", "blocks.1.adaLN_modulation.1": "lora_unet_"}
    weights = flow.model.diffusion_model.state_dict()
    lora, terms = {}, {}
    for name, prefix in layers.items():
        out, into = weights[f"{name}.weight"].shape
        up, down = normal(out, 2), normal(2, into)
        key = prefix + (name.replace(".", "_") if "_unet_" in prefix else name)
        lora |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
        terms[f"{name}.weight"] = 0.1 * up @ down
    before = sample(flow, *condition(mask=mask()))
    patched, _ = load(flow, None, lora, 0.1, 0)
    path = tiny.write(tmp_path / "merged.safetensors", edit=lambda sd: {
        name: weight + terms[name] if name in terms else weight for name, weight in sd.items()})
    found = sample(patched, *condition(mask=mask()))
    merged = host.load_mmface(path, torch.float32, "flow")
    torch.testing.assert_close(found, sample(merged, *condition(mask=mask())), rtol=1e-4, atol=1e-3)
    assert not torch.allclose(found, before, atol=1e-2)
    torch.testing.assert_close(sample(flow, *condition(mask=mask())), before, **CLOSE)


def test_blocks_that_another_node_replaced_are_refused(flow, monkeypatch):
    blocks = flow.model.diffusion_model.blocks
    monkeypatch.setitem(flow.model.diffusion_model._modules, "blocks", torch.nn.ModuleList([
        torch.nn.Sequential(*blocks)]))
    with pytest.raises(ValueError, match="model: another node put 'Sequential' in place of its 2 blocks"):
        sample(flow)


def test_patches_of_blocks_act(flow):
    seen = []

    def replaced(args, more):
        seen.append(args["transformer_options"]["block_index"])
        out = more["original_block"](args)
        return {**out, "img": out["img"].roll(1, dims=1)}
    model = flow.clone()
    model.set_model_patch_replace(replaced, "dit", "double_block", 1)
    assert not torch.allclose(sample(model), sample(flow), atol=1e-3)
    assert set(seen) == {1}


@pytest.mark.parametrize("hook", hooks.ALL.values(), ids=hooks.ALL.keys())
def test_every_hook_of_the_host_acts(flow, hook):
    assert not torch.allclose(sample(hook(flow)), sample(flow), atol=1e-3)


def test_conditionings_survive_other_nodes(flow):
    """Copies of a conditioning hold the same picture."""
    positive, negative = condition(mask=mask())
    changed = node_helpers.conditioning_set_values(positive, {"start_percent": 0.0})
    assert torch.equal(sample(flow, changed, negative), sample(flow, positive, negative))
