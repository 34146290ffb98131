"""The guider's predictions and runs, compared with single models and with the formulas written out."""
import pytest
import torch
import torch.nn.functional as F

import comfy.samplers
from comfy.model_patcher import set_model_options_post_cfg_function
from comfy.patcher_extension import WrappersMP
from mditface.mdit.face_diffuser.saliency import Prior
from mditface.mdit.face_diffuser.stages import Borders, Stage
from mditface.tests.face_diffuser.tiny import FAMILIES, TEXTS, Once, evaluate, fusion, model, plain, run, text

FUSED = Borders(0, 1)
SCENE, SUBJECT = Borders(1, 1), Borders(0, 0)
SAMPLERS = ["euler", "heun", "euler_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde"]
SAMPLER = pytest.mark.parametrize("sampler", SAMPLERS)


def noisy(family: str = "sd15", batch: int = 1) -> torch.Tensor:
    channels = model(family).model.latent_format.latent_channels
    return torch.randn(batch, channels, 8, 8, generator=torch.Generator().manual_seed(7))


def singles(family: str, x: torch.Tensor, sigma: float) -> list[torch.Tensor]:
    """The four predictions, each from a run of its own: scene, then subject; for each the condition, then the base."""
    models = [model(family, seed) for seed in (0, 0, 1, 1)]
    return [evaluate(plain(patcher, cond, cond, 1.0), x, sigma) for patcher, cond in zip(models, TEXTS)]


def written_out(predictions, scales, sigma: float, bias: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Winner and fused prediction by the paper's steps, in double precision."""
    saliency, guided = [], []
    for cond, base, scale in zip(predictions[::2], predictions[1::2], scales):
        change = (scale * (cond.double() - base.double()) / sigma).abs()
        boxes = F.pad(change, (1, 1, 1, 1)).unfold(2, 4, 1).unfold(3, 4, 1).mean(dim=(-2, -1))
        smooth = F.interpolate(boxes, change.shape[-2:], mode="bilinear").mean(1)
        saliency.append(smooth.flatten(1).softmax(-1).reshape(smooth.shape))
        guided.append(base + scale * (cond - base))
    won = (saliency[1] * torch.tensor(bias).exp() > saliency[0])[:, None]
    return won, torch.where(won, guided[1], guided[0])


@pytest.mark.parametrize("scales", [(3.0, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_prediction(family, scales):
    x, sigma = noisy(family, 2), 0.1
    guider = fusion(model(family), model(family, 1), scales=scales, borders=FUSED)
    found = evaluate(guider, x, sigma)
    won, fused = written_out(singles(family, x, sigma), scales, sigma)
    assert torch.equal(guider.record.fused_steps[0].subject_mask, won) and 0 < won.float().mean() < 1
    torch.testing.assert_close(found, fused, rtol=1e-5, atol=1e-5)


def test_saliency_is_of_the_predictions_as_the_models_make_them():
    """Functions before guidance change what is fused (here to the base alone) but not which model wins."""
    x, sides = noisy(), [model().clone(), model(seed=1).clone()]
    for side in sides:
        side.set_model_sampler_pre_cfg_function(lambda args: [args["conds_out"][1]] * 2)
    guider = fusion(*sides, borders=FUSED)
    found, predictions = evaluate(guider, x, 0.1), singles("sd15", x, 0.1)
    won, _ = written_out(predictions, (3.0, 2.0), 0.1)
    assert torch.equal(guider.record.fused_steps[0].subject_mask, won)
    torch.testing.assert_close(found, torch.where(won, predictions[3], predictions[1]), rtol=1e-5, atol=1e-5)


class StageByStage(comfy.samplers.CFGGuider):
    """Each step by a guider of its own that knows one stage alone."""

    def __init__(self, scene, subject):
        super().__init__(scene)
        borders = (SCENE, SCENE, FUSED, FUSED, SUBJECT)
        self.guiders = [fusion(scene, subject, borders=border) for border in borders]

    def sample(self, noise, latent, sampler, sigmas, **_):
        sampling = self.model_patcher.get_model_object("model_sampling")
        x = sampling.noise_scaling(sigmas[0], noise, latent, abs(sigmas[0] - sampling.sigma_max) < 1e-3)
        for guider, sigma, after in zip(self.guiders, sigmas, sigmas[1:]):
            x = x + (after - sigma) * (x - evaluate(guider, x, sigma.item())) / sigma
        return self.model_patcher.model.process_latent_out(x)


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_a_run_goes_through_three_stages(family):
    guider = fusion(model(family), model(family, 1), borders=Borders(0.2, 0.6))
    out = run(guider, steps=5)
    assert list(guider.record.stages.values()) == [Stage.SCENE] * 2 + [Stage.FUSION] * 2 + [Stage.SUBJECT]
    assert guider.record.fused_steps.keys() == {2, 3}
    expected = run(StageByStage(model(family), model(family, 1)), steps=5)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def check_one_stage(families, scale: float, **kwargs):
    sides = [model(family, seed) for seed, family in enumerate(families)]
    for borders, single, texts in ((SCENE, sides[0], TEXTS[:2]), (SUBJECT, sides[1], TEXTS[2:])):
        found = run(fusion(*sides, scales=(scale, scale), borders=borders), shape=(2, 8, 12), **kwargs)
        assert torch.equal(found, run(plain(single, *texts, scale), shape=(2, 8, 12), **kwargs))


@SAMPLER
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_one_stage_is_the_single_model_bit_for_bit(sampler, scale):
    check_one_stage(("sd15", "sd15"), scale, sampler=sampler)


@pytest.mark.parametrize("families", [*((family,) * 2 for family in FAMILIES), ("sd15", "sd15-v"), ("sd15-v", "sd15")])
def test_one_stage_of_each_family(families):
    check_one_stage(families, 3.0)


@SAMPLER
def test_equal_models_are_plain_guidance(sampler):
    texts = [*TEXTS[:2], *TEXTS[:2]]
    expected = run(plain(model(), *TEXTS[:2], 3.0), sampler=sampler)
    for subject in (model(), model().clone()):
        guider = fusion(model(), subject, texts=texts, scales=(3.0, 3.0))
        assert torch.equal(run(guider, sampler=sampler), expected)
        assert not any(maps.subject_mask.any() for maps in guider.record.fused_steps.values())


class Adding(Once):
    """Adds a function to call after guidance, as CFG++'s samplers do."""

    def __init__(self, x, function):
        super().__init__(x)
        self.function = function

    def sample(self, guider, sigmas, extra_args, *args):
        options = set_model_options_post_cfg_function(extra_args["model_options"].copy(), self.function)
        return super().sample(guider, sigmas, {**extra_args, "model_options": options}, *args)


@pytest.mark.parametrize("borders", [SCENE, FUSED, SUBJECT])
def test_a_samplers_function_is_called_once_with_the_result(borders):
    x, seen, guider = noisy(), [], fusion(model(), model(seed=1), borders=borders)
    expected = evaluate(guider, x, 1.0)
    sampler = Adding(x, lambda args: seen.append(args) or args["denoised"] / 2)
    guider.sample(torch.zeros_like(x), torch.zeros_like(x), sampler, torch.tensor([1.0, 0.0]), seed=0)
    scene_cond, scene_base, subject_cond, subject_base = singles("sd15", x, 1.0)
    won = guider.record.fused_steps[0].subject_mask if borders is FUSED else torch.tensor(borders is SUBJECT)
    assert torch.equal(sampler.output, expected / 2) and len(seen) == 1
    torch.testing.assert_close(seen[0]["cond_denoised"], torch.where(won, subject_cond, scene_cond))
    torch.testing.assert_close(seen[0]["uncond_denoised"], torch.where(won, subject_base, scene_base))


def test_equal_weights_loaded_twice():
    guider = fusion(model(), model.__wrapped__(), texts=[*TEXTS[:2], *TEXTS[:2]], scales=(3.0, 3.0))
    assert torch.equal(run(guider), run(plain(model(), *TEXTS[:2], 3.0)))


def test_one_model_in_both_places_with_other_texts():
    apart = run(fusion(model(), model.__wrapped__()))
    assert torch.equal(run(fusion(model(), model())), apart)


@pytest.mark.parametrize("borders", [SCENE, SUBJECT, FUSED])
def test_a_noise_mask_keeps_the_rest(borders):
    latent, mask = noisy() * 5, torch.zeros(1, 8, 8)
    mask[:, 2:5, 3:6] = 1
    out = run(fusion(model(), model(seed=1), borders=borders), latent=latent, denoise_mask=mask)
    kept = mask[:, None].expand_as(out) == 0
    torch.testing.assert_close(out[kept], latent[kept], rtol=1e-5, atol=1e-5)
    assert (out - latent)[~kept].abs().mean() > 0.1


def test_each_picture_of_a_batch_is_as_alone():
    guider = fusion(model(), model(seed=1), borders=FUSED)
    x = noisy(batch=3)
    together = evaluate(guider, x, 1.0)
    for i in range(3):
        torch.testing.assert_close(evaluate(guider, x[i:i + 1], 1.0)[0], together[i], rtol=1e-5, atol=1e-5)


def test_previews_come_at_every_step():
    seen = []
    guider = fusion(model(), model(seed=1))
    run(guider, steps=5, callback=lambda step, x0, x, total: seen.append((step, x0.shape, total)))
    assert seen == [(i, (1, 4, 8, 8), 5) for i in range(5)]


def test_no_steps_leave_the_latent():
    latent = noisy()
    guider = fusion(model(), model(seed=1))
    assert torch.equal(guider.sample(torch.zeros_like(latent), latent, None, torch.tensor([])), latent)


# The region prior


def fused_with(prior: Prior):
    guider = fusion(model(), model(seed=1), borders=FUSED, prior=prior)
    return evaluate(guider, noisy(batch=2), 1.0), guider.record.fused_steps[0].subject_mask


def test_a_full_region_changes_nothing():
    expected, _ = fused_with(Prior())
    for region in (torch.ones(1, 64, 64), torch.ones(2, 5, 7)):
        assert torch.equal(fused_with(Prior(region, feather=3))[0], expected)


def test_the_subject_wins_inside_the_region_alone():
    region = torch.zeros(1, 64, 64)
    region[:, :, 32:] = 1
    _, free = fused_with(Prior())
    _, won = fused_with(Prior(region))
    assert torch.equal(won[..., 4:], free[..., 4:]) and not won[..., :4].any() and free[..., :4].any()


def test_a_bias_inside_a_region():
    region = torch.zeros(1, 8, 8)
    region[..., 4:] = 1
    _, won = fused_with(Prior(region, bias=20.0))
    assert torch.equal(won, region.bool()[:, None].expand_as(won))


def test_an_empty_region_is_the_scene_alone():
    out, won = fused_with(Prior(torch.zeros(1, 8, 8)))
    assert not won.any()
    torch.testing.assert_close(out, evaluate(plain(model(), *TEXTS[:2], 3.0), noisy(batch=2), 1.0), rtol=0, atol=0)


def test_each_picture_has_its_region():
    _, won = fused_with(Prior(torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])))
    assert not won[0].any() and won[1].any()


def test_feathering_fades_the_edge():
    region = torch.zeros(1, 8, 8)
    region[..., 4:] = 1
    log = Prior(region, feather=2).compute_log_weight(torch.Size((1, 4, 8, 8)), torch.device("cpu"))
    torch.testing.assert_close(log[0, 0, 0].exp(), torch.tensor([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1]))


def test_bias():
    predictions = singles("sd15", noisy(batch=2), 1.0)
    shares = []
    for bias in (-20.0, -0.5, 0.0, 0.5, 20.0):
        _, won = fused_with(Prior(bias=bias))
        assert torch.equal(won, written_out(predictions, (3.0, 2.0), 1.0, bias)[0])
        shares.append(won.float().mean().item())
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1


# References in the MODEL


def test_a_base_model_makes_the_base_pass():
    """A reference in the MODEL changes its prediction, so equal conditionings give a response."""
    def shifted(apply_model, args):
        return apply_model(args["input"], args["timestep"], **args["c"]) + 0.3
    subject = model(seed=1).clone()
    subject.set_model_unet_function_wrapper(shifted)
    texts = [*TEXTS[:2], TEXTS[2], TEXTS[2]]
    x, scale = noisy(), 2.0
    alone = evaluate(plain(model(seed=1), TEXTS[2], TEXTS[2], 1.0), x, 1.0)
    for borders in (SUBJECT, FUSED):
        guider = fusion(model(), subject, model(seed=1), texts=texts, borders=borders, prior=Prior(bias=20.0))
        torch.testing.assert_close(evaluate(guider, x, 1.0), alone + scale * 0.3, rtol=1e-5, atol=1e-5)


def test_wrappers_of_a_base_model_see_the_base_pass():
    counts, base = [0, 0], model(seed=1).clone()
    subject = base.clone()

    def counting(i):
        def wrapper(executor, *args, **kwargs):
            counts[i] += 1
            return executor(*args, **kwargs)
        return wrapper
    for i, patcher in enumerate((subject, base)):
        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", counting(i))
    run(fusion(model(), subject, base, borders=Borders(0.25, 0.5)))
    assert counts == [2, 2]


def test_hooks_of_either_side_see_their_own_predictions():
    seen = {"scene": 0, "subject": 0}

    def count(name):
        def hook(args):
            seen[name] += 1
            return args["denoised"]
        return hook
    sides = {"scene": model().clone(), "subject": model(seed=1).clone()}
    for name, side in sides.items():
        side.set_model_sampler_post_cfg_function(count(name))
    guider = fusion(*sides.values(), borders=Borders(0.25, 0.5))
    expected = run(fusion(model(), model(seed=1), borders=Borders(0.25, 0.5)))
    assert torch.equal(run(guider, steps=4), expected)
    assert seen == {"scene": 3, "subject": 2}  # two of the scene alone, one fused, one of the subject alone


def test_conditions_of_several_strengths_are_averaged_before_they_are_fused():
    x, sigma = noisy(), 0.1
    texts = [*TEXTS[:2], text(2) + text(5, strength=0.5), TEXTS[3]]
    guider = fusion(model(), model(seed=1), texts=texts, borders=FUSED)
    found, predictions = evaluate(guider, x, sigma), singles("sd15", x, sigma)
    predictions[2] = (predictions[2] + 0.5 * evaluate(plain(model(seed=1), text(5), text(5), 1.0), x, sigma)) / 1.5
    won, fused = written_out(predictions, (3.0, 2.0), sigma)
    assert torch.equal(guider.record.fused_steps[0].subject_mask, won)
    torch.testing.assert_close(found, fused, rtol=1e-5, atol=1e-5)
