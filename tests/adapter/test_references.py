"""Reference latents of edit models beside a mask: their tokens come after the image's (docs/design/adapters.md,
section 3.1)."""
import math

import pytest
import torch

from comfy_extras.nodes_flux import FluxKVCache
from mditface.tests.adapter.bases import KERNELS, case as make_case, load, mask, noisy, prediction, published, run
from mditface.tests.adapter.reference import predict
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked
from node_helpers import conditioning_set_values

ROUNDING = dict(rtol=2e-6, atol=1e-5)
EDITED = pytest.mark.parametrize("family", ["flux", "flux2", "klein", "qwen-image", "z-image"])
REFERENCE = noisy(1, 8, 12) * 0.5


@pytest.fixture(scope="module")
def cases(cases, tmp_path_factory):
    """With FLUX.2 Klein."""
    klein = load(published("klein"), "klein")
    return {**cases, "klein": make_case("klein", klein, tmp_path_factory.mktemp("klein"))}


def edited(case, cond, **values):
    """With a reference latent, which has frames where the model's latents have."""
    latent = REFERENCE.unsqueeze(2) if case.family == "qwen-image" else REFERENCE
    return conditioning_set_values(cond, {"reference_latents": [latent], **values})


@EDITED
@KERNELS
def test_text_image_and_reference_read_the_mask(cases, texts, family, kernel):
    case, labels, x = cases[family], mask(), noisy()
    positive = edited(case, texts[0])
    out = prediction(case.model, masked(positive, labels), x=x)
    torch.testing.assert_close(out, predict(x, positive, (case, labels)), **ROUNDING)
    assert not torch.allclose(out, prediction(case.model, masked(texts[0], labels), x=x), atol=1e-3)


@EDITED
@KERNELS
def test_in_windows_the_reference_reads_nothing(cases, texts, tmp_path, family, kernel):
    case = make_case(family, cases[family].base, tmp_path, window=2, text_reads_mask=False)
    labels, x, positive = mask(), noisy(), edited(case, texts[0])  # one window is the whole grid of 4 x 4
    # on Z-Image a text of 8 fillers and the reference stand before the image
    before, behind = (case.text_tokens + 8 + 24, 0) if family == "z-image" else (case.text_tokens, 24)
    reads = torch.full((before + 16 + behind, 16), -math.inf)
    reads[before:before + 16] = 0
    torch.testing.assert_close(prediction(case.model, masked(positive, labels), x=x),
                               predict(x, positive, (case, labels), reads=reads), **ROUNDING)


@pytest.mark.parametrize("method", ["index_timestep_zero", "negative_index"])
def test_other_methods_of_qwen_image_edit(cases, texts, method):
    """References at time 0, as Qwen-Image-Edit 2511 has them, or before the image."""
    case, labels, x = cases["qwen-image"], mask(), noisy()
    positive = edited(case, texts[0], reference_latents_method=method)
    torch.testing.assert_close(prediction(case.model, masked(positive, labels), x=x),
                               predict(x, positive, (case, labels)), **ROUNDING)


@EDITED
def test_the_static_pass_serves_all_references(cases, texts, family):
    """The mask's keys do not depend on what the reference shows."""
    case, labels = cases[family], mask()
    run(case.model, masked(texts[0], labels), texts[1])
    out, report = run(case.model, masked(edited(case, texts[0]), labels), texts[1])
    assert report.passes == 0
    expected, _ = run(case.model, masked(edited(case, texts[0]), labels), texts[1], OFF)
    torch.testing.assert_close(out, expected, **TOLERANCE)


def test_the_hosts_cache_of_references(cases, texts):
    """It drops the reference's tokens after the first step and adds their keys: text and image still read the mask.

    On Klein: the host's node fails on models that read guidance, with and without a mask.
    """
    case, labels = cases["klein"], mask()

    def sample(model, cond, options=None):
        model = FluxKVCache.execute(model).result[0]
        return run(model, edited(case, cond), edited(case, texts[1]), *([options] if options else []), steps=3)
    out, report = sample(case.model, masked(texts[0], labels))
    assert (report.passes, report.hits, report.notes) == (1, 2, [])
    torch.testing.assert_close(out, sample(case.model, masked(texts[0], mask()), OFF)[0], **TOLERANCE)
    assert not torch.allclose(out, sample(case.base, texts[0])[0], atol=1e-3)
