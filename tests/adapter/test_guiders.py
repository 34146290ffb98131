"""Guiders of the host and the pack's own, with masks that an adapter reads."""
import pytest
import torch

from comfy_extras.nodes_custom_sampler import DualCFGGuider, DualModelGuider
from comfy_extras.nodes_perpneg import PerpNegGuider, perp_neg
from mditface.mdit.mditface.guidance import DualGuider, Guidance
from mditface.mdit.mditface.sample import sample
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter.bases import SIGMA, mask, noisy, prediction, text
from mditface.tests.adapter.reference import predict, still
from mditface.tests.mditface.runs import OFF, TOLERANCE, evaluate, masked

ROUNDING = dict(rtol=0, atol=1e-4)  # what guidance makes of another order of summation


@pytest.fixture
def three(case, texts):
    """Three conditionings, of which the second has no mask, and the predictions for them."""
    masks, x, conds = (mask(seed=0), mask(seed=1)), noisy(), [*texts, text(2)]
    masked_conds = [masked(conds[0], masks[0]), conds[1], masked(conds[2], masks[1])]
    predictions = [predict(x, conds[0], (case, masks[0])), prediction(case.base, conds[1], x=x),
                   predict(x, conds[2], (case, masks[1]))]
    return masked_conds, predictions


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_dual_cfg(case, three, style):
    conds, (first, second, negative) = three
    out = evaluate(DualCFGGuider.execute(case.model, *conds, 2.0, 1.5, style).result[0], noisy(), SIGMA)
    if style == "regular":
        expected = negative + 1.5 * (second - negative) + 2 * (first - second)
    else:
        expected = negative + 1.5 * (second + 2 * (first - second) - negative)
    torch.testing.assert_close(out, expected, **ROUNDING)


def test_perp_neg(case, three):
    conds, predictions = three
    model = case.base.model
    out = evaluate(PerpNegGuider.execute(case.model, *conds, 2.0, 0.5).result[0], noisy(), SIGMA)
    positive, negative, empty = (still(model, model.process_latent_in, p) for p in predictions)
    expected = perp_neg(noisy(), positive, negative, empty, 0.5, 2.0)
    torch.testing.assert_close(out, still(model, model.process_latent_out, expected), **ROUNDING)


def test_the_packs_guider(case, texts):
    labels, x = mask(), noisy()
    guider = DualGuider(case.model)
    guider.set_conds(masked(texts[0], labels), texts[1])
    guider.set_guidance(Guidance(2.0, 1.5))
    both, mask_only = (predict(x, cond, (case, labels)) for cond in texts)
    nothing = prediction(case.base, texts[1], x=x)
    expected = nothing + 1.5 * (mask_only - nothing) + 2 * (both - mask_only)
    torch.testing.assert_close(evaluate(guider, x, SIGMA), expected, **ROUNDING)


def test_the_packs_sampler(case, texts):
    def sampled(options):
        return sample(case.model, seed=0, steps=3, guidance=Guidance(2.0, 1.5), sampler_name="euler",
                      scheduler="simple", positive=masked(texts[0], mask()), negative=texts[1],
                      latent={"samples": torch.zeros(1, 16, 8, 8)}, cache=options)
    out, report = sampled(CacheOptions())
    passes = 2 if case.prompted else 1
    assert (report.passes, report.hits) == (passes, 3 * 2 - passes if case.prompted else 2)
    torch.testing.assert_close(out["samples"], sampled(OFF)[0]["samples"], **TOLERANCE)


def test_a_guider_with_another_model_for_the_negative(case, texts):
    """The negative's model has no adapter: it must not get what belongs to one."""
    positive, x = masked(texts[0], mask()), noisy()
    guider = DualModelGuider.execute(case.model, positive, 2.0, case.base, texts[1]).result[0]
    torch.testing.assert_close(evaluate(guider, x, SIGMA), prediction(case.model, positive, texts[1], x, cfg=2.0),
                               **ROUNDING)
