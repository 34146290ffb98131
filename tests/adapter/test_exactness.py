"""What an adapter computes: the definition of the three streams, on each family (docs/design/adapters.md)."""
import math

import pytest
import torch

from mditface.mdit.labelmap import CLASSES, resize_nearest
from mditface.mdit.mditface.adapter.families.sd3 import interpolate
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.mditface.reader import CacheOptions
from mditface.mdit.mditface.local_window import make_dense_bias
from mditface.tests.adapter.bases import KERNELS, VAE, case as make_case, mask, noisy, prediction, run, text
from mditface.tests.adapter.reference import predict
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked
from nodes import ConditioningSetArea, ConditioningSetTimestepRange

ROUNDING = dict(rtol=2e-6, atol=1e-5)  # another order of summation


def test_cached_and_uncached_agree(case, texts):
    positive = masked(texts[0], mask())
    expected, _ = run(case.model, positive, texts[1], OFF, steps=3)
    for _ in range(2):
        torch.testing.assert_close(run(case.model, positive, texts[1], steps=3)[0], expected, **TOLERANCE)
    assert (expected - run(case.model, *texts, steps=3)[0]).std() > 0.01 * expected.std()


def test_without_a_mask_the_model_is_the_bare_one(case, texts):
    bare, _ = run(case.base, *texts)
    assert torch.equal(run(case.model, *texts)[0], bare)
    assert torch.equal(run(case.model, masked(texts[0], mask(), 0.0), texts[1])[0], bare)


@KERNELS
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (7, 9)])
def test_it_is_the_attention_of_three_streams(case, texts, size, kernel):
    labels, x = mask(), noisy(1, *size)
    torch.testing.assert_close(prediction(case.model, masked(texts[0], labels), x=x),
                               predict(x, texts[0], (case, labels)), **ROUNDING)


def test_both_halves_of_guidance_read_their_own_mask(case, texts):
    masks, x = (mask(seed=0), mask(seed=1)), noisy()
    positive, negative = (predict(x, cond, (case, m)) for cond, m in zip(texts, masks))
    torch.testing.assert_close(prediction(case.model, *map(masked, texts, masks), x=x, cfg=2.0),
                               negative + 2 * (positive - negative), rtol=0, atol=3e-5)


@KERNELS
def test_each_latent_of_a_batch_has_its_label_map(case, texts, kernel):
    labels, x = mask(batch=3), noisy(3)
    out = prediction(case.model, masked(texts[0], labels), texts[1], x, cfg=2.0)
    torch.testing.assert_close(prediction(case.model, masked(texts[0], labels), x=x),
                               predict(x, texts[0], (case, labels)), **ROUNDING)
    for i in range(3):
        single = MaskInput(labels.labels[i:i + 1], labels.visible, vae=VAE)
        alone = prediction(case.model, masked(texts[0], single), texts[1], x[i:i + 1], cfg=2.0)
        torch.testing.assert_close(out[i:i + 1], alone, rtol=0, atol=3e-5)


@KERNELS
@pytest.mark.parametrize("strength", [0.4, 3.0])
def test_strength_adds_its_logarithm_to_the_logits(case, texts, strength, kernel):
    labels, x = mask(), noisy()
    torch.testing.assert_close(prediction(case.model, masked(texts[0], labels, strength), x=x),
                               predict(x, texts[0], (case, labels), reads=math.log(strength)), **ROUNDING)


def test_weight_multiplies_the_terms(case, texts):
    labels, x = mask(), noisy()
    weak = case.apply(case.base, 0.3)
    torch.testing.assert_close(prediction(weak, masked(texts[0], labels), x=x),
                               predict(x, texts[0], (case, labels), weight=0.3), **ROUNDING)


@KERNELS
@pytest.mark.parametrize("window, strength", [(0, 1.0), (1, 1.0), (1, 0.3)])
def test_only_the_image_reads_and_only_nearby(own, texts, tmp_path, window, strength, kernel):
    small = make_case(own.family, own.base, tmp_path, window=window, text_reads_mask=False)
    labels, x = mask(), noisy(2, 12, 16)
    near = make_dense_bias((6, 8), window, x) if window else torch.zeros(48, 48)
    reads = torch.cat((torch.full((own.text_tokens, 48), -math.inf), near + math.log(strength)))
    positive = masked(texts[0], labels, strength)
    out = prediction(small.model, positive, x=x)
    torch.testing.assert_close(out, predict(x, texts[0], (small, labels), reads=reads), **ROUNDING)
    torch.testing.assert_close(out, prediction(small.model, positive, x=x, options=OFF), **TOLERANCE)


def test_a_region_reads_its_part_of_the_mask(own, texts):
    x, masks = noisy(1, 8, 16), (mask(seed=0), mask(seed=1))
    positive, expected = [], []
    for i, (cond, m) in enumerate(zip((texts[0], text(2)), masks)):
        positive += ConditioningSetArea().append(masked(cond, m), 64, 64, 64 * i, 0, 1.0)[0]
        half = resize_nearest(m.labels, 64, 128)[:, :, 64 * i:64 * (i + 1)]
        expected.append(predict(x[..., 8 * i:8 * (i + 1)], cond, (own, MaskInput(half, m.visible))))
    torch.testing.assert_close(prediction(own.model, positive, x=x), torch.cat(expected, dim=3), **ROUNDING)


def test_regions_cached_and_uncached_agree(case, texts):
    labels = mask()
    positive = masked(texts[0], labels) + ConditioningSetArea().append(masked(text(2), labels), 32, 32, 32, 0, 1.0)[0]
    out, report = run(case.model, positive, texts[1])
    assert (report.passes, report.hits) == (2, 2)
    torch.testing.assert_close(out, run(case.model, positive, texts[1], OFF)[0], **TOLERANCE)


RANGES = {"conditioning": lambda cond, m: ConditioningSetTimestepRange().set_range(masked(cond, m), 0.0, 0.5)[0]
          + ConditioningSetTimestepRange().set_range(cond, 0.5, 1.0)[0],
          "reference": lambda cond, m: masked(cond, m, 1.0, 0.0, 0.5)}


@pytest.mark.parametrize("positive", RANGES.values(), ids=RANGES.keys())
def test_a_range_of_the_schedule(case, texts, positive):
    out, report = run(case.model, positive(texts[0], mask()), texts[1], steps=4)
    assert report.passes == 1
    assert 0 < report.hits < 3
    torch.testing.assert_close(out, run(case.model, positive(texts[0], mask()), texts[1], OFF, steps=4)[0], **TOLERANCE)


@pytest.mark.parametrize("reduction, options", [("merge", CacheOptions()), ("half", CacheOptions()),
                                                ("off", CacheOptions(offload=True))])
def test_reductions_and_places_cached_and_uncached_agree(case, texts, reduction, options):
    positive = masked(texts[0], mask(reduction=reduction))
    expected, _ = run(case.model, positive, texts[1], OFF)
    torch.testing.assert_close(run(case.model, positive, texts[1], options)[0], expected, **TOLERANCE)
    assert not torch.allclose(expected, run(case.model, *texts)[0], atol=1e-2)


def test_merging_single_tokens_changes_nothing(own, texts):
    labels, visible = torch.arange(16, dtype=torch.uint8).view(1, 4, 4), torch.ones(len(CLASSES))
    exact, merged = (prediction(own.model, masked(texts[0], MaskInput(labels, visible, reduction, VAE)))
                     for reduction in ("off", "merge"))
    torch.testing.assert_close(merged, exact, **ROUNDING)


def test_half_a_mask_is_a_quarter_of_the_bytes(own, texts):
    whole, half = (run(own.model, masked(texts[0], mask(reduction=reduction)), texts[1])[1].bytes
                   for reduction in ("off", "half"))
    assert whole == 4 * half > 0


def test_a_place_between_tokens_mixes_their_positions():
    table = torch.tensor([[0.0, 1], [10, 2], [30, 4]])
    mixed = interpolate(table, torch.tensor([-1, 0, 0.5, 1.25, 2, 9]), 0)
    assert mixed.tolist() == [[0, 1], [0, 1], [5, 1.5], [15, 2.5], [30, 4], [30, 4]]


def test_eight_bits_are_close(case, texts):
    positive = masked(texts[0], mask())
    exact = run(case.model, positive, texts[1])[0]
    effect = (exact - run(case.model, *texts)[0]).std()
    close, report = run(case.model, positive, texts[1], CacheOptions("8-bit"))
    assert report.passes == 1
    assert 0 < (close - exact).std() < 0.02 * effect
