"""Functions, wrappers and callbacks of other nodes on the models that are fused."""
import pytest
import torch

from comfy.patcher_extension import CallbacksMP, WrappersMP
from mditface.mdit.face_diffuser.record import FusionRecord
from mditface.mdit.face_diffuser.stages import Borders
from mditface.tests.face_diffuser.tiny import TEXTS, evaluate, fusion, model, plain, run
from mditface.tests.shared import hooks

FUSED = Borders(0, 1)
SCENE, SUBJECT = Borders(1, 1), Borders(0, 0)
CLOSE = dict(rtol=1e-5, atol=1e-5)
PREDICTIONS = {**hooks.GUIDANCE, **hooks.MODEL}
EVALUATIONS = {**PREDICTIONS, "predict_noise": hooks.RUN["predict_noise"]}


@pytest.mark.parametrize("hook", EVALUATIONS.values(), ids=EVALUATIONS.keys())
@pytest.mark.parametrize("borders", [SCENE, SUBJECT])
def test_a_hook_on_the_model_that_runs_alone(hook, borders):
    sides = [model(), model(seed=1)]
    side = 0 if borders is SCENE else 1
    single, texts = sides[side], (TEXTS[:2], TEXTS[2:])[side]
    sides[side] = hook(single)
    found = run(fusion(*sides, borders=borders, scales=(3.0, 3.0)))
    torch.testing.assert_close(found, run(plain(hook(single), *texts, 3.0)), **CLOSE)
    assert not torch.allclose(found, run(plain(single, *texts, 3.0)), atol=1e-3)


@pytest.mark.parametrize("hook", PREDICTIONS.values(), ids=PREDICTIONS.keys())
def test_a_hook_on_both_of_two_equal_models(hook):
    """Fused, each prediction is that of plain guidance with the hook."""
    texts = [*TEXTS[:2], *TEXTS[:2]]
    guider = fusion(hook(model()), hook(model()), texts=texts, scales=(3.0, 3.0), borders=FUSED)
    torch.testing.assert_close(run(guider), run(plain(hook(model()), *TEXTS[:2], 3.0)), **CLOSE)


@pytest.mark.parametrize("on", ["subject", "base"])
def test_a_function_that_replaces_the_evaluation_beside_a_base_model(on):
    """With a reference in the MODEL, each pass is evaluated by its own model's function."""
    hook, text, x = hooks.MODEL["conditions"], TEXTS[2], torch.ones(1, 4, 8, 8)
    sides = {"subject": model(seed=1), "base": model(seed=1).clone()}
    sides[on] = hook(sides[on])
    guider = fusion(model(), sides["subject"], sides["base"], texts=[*TEXTS[:2], text, text], borders=SUBJECT)
    bare = evaluate(plain(model(seed=1), text, text, 1.0), x, 1.0)
    cond, base = (0.9 * bare if on == side else bare for side in sides)
    torch.testing.assert_close(evaluate(guider, x, 1.0), base + 2.0 * (cond - base), **CLOSE)


@pytest.mark.parametrize("borders", [SCENE, SUBJECT, FUSED])
def test_a_function_on_the_noise_mask(borders):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    sides, mask = [model(), model()], hooks.noise_mask(8, 8)
    texts = [*TEXTS[:2], *TEXTS[:2]]
    expected = run(plain(hooks.softened(model()), *TEXTS[:2], 3.0), latent=latent, denoise_mask=mask)
    sides[0 if borders is SCENE else 1] = hooks.softened(model())
    found = run(fusion(*sides, texts=texts, scales=(3.0, 3.0), borders=borders), latent=latent, denoise_mask=mask)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_callbacks_of_both_models():
    sides = [hooks.counted(model(seed=seed), (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP)) for seed in (0, 1)]
    run(fusion(*(side for side, _ in sides), borders=FUSED))
    for _, calls in sides:
        assert calls[CallbacksMP.ON_PRE_RUN] == 1 and calls[CallbacksMP.ON_CLEANUP] >= 1


def test_rows_that_another_node_takes_one_by_one_are_refused():
    scene = model().clone()
    scene.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "foreign", lambda executor, x, t, *args: torch.cat(
        [executor(x[i:i + 1], t[i:i + 1], *args) for i in range(len(x))]))
    with pytest.raises(ValueError, match=r"guider: another node evaluates \(1, 4, 8, 8\) of the latents \(2, 4, 8, 8"):
        run(fusion(scene, model(seed=1), borders=FUSED), shape=(2, 8, 8))
    run(fusion(scene, model(seed=1), borders=SCENE), shape=(2, 8, 8))


def test_a_run_without_steps_leaves_no_record_of_an_earlier_one():
    guider, latent = fusion(model(), model(seed=1), borders=FUSED), torch.ones(1, 4, 8, 8)
    run(guider)
    assert guider.record.fused_steps
    assert torch.equal(guider.sample(torch.zeros_like(latent), latent, None, torch.tensor([])), latent)
    assert guider.record == FusionRecord()
