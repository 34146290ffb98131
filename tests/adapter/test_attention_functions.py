"""Masks on every attention function that the host can choose."""
import logging

import pytest
import torch

from mditface.tests.adapter.bases import case as make_case, mask, prediction
from mditface.tests.mditface.runs import masked
from mditface.tests.shared import attention_functions
from mditface.tests.shared.attention_functions import PACKAGED, PLAIN

ROUNDING = dict(rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def windowed(bases, tmp_path_factory):
    """An adapter whose image tokens alone read the mask near them."""
    return make_case("flux", bases["flux"], tmp_path_factory.mktemp("windowed"), window=1, text_reads_mask=False)


@pytest.mark.parametrize("family", ["sd3", "sd35", "flux", "easycontrol", "windowed"])
@pytest.mark.parametrize("function", PLAIN + PACKAGED)
def test_every_function_of_the_host_reads_masks(cases, texts, windowed, family, function, monkeypatch, caplog):
    """As PyTorch's attention does, which the other tests compare with the definition."""
    model = (cases | {"windowed": windowed})[family].model
    conditionings = [texts[0], masked(texts[0], mask()), masked(texts[0], mask(), 0.5)]
    if family != "windowed":
        conditionings.append(masked(texts[0], mask(reduction="merge")))
    expected = [prediction(model, positive) for positive in conditionings]
    attention_functions.use(function, monkeypatch)
    with caplog.at_level(logging.ERROR):
        for positive, out in zip(conditionings, expected):
            torch.testing.assert_close(prediction(model, positive), out, **ROUNDING)
    assert {*attention_functions.called} == attention_functions.packages_of(function)
    assert not caplog.records
