"""What only Z-Image has: no patches of blocks, text that moves the image, refiners (docs/design/adapters.md, section
2.3)."""
import logging

import pytest
import torch

from comfy.patcher_extension import WrappersMP
from mditface.tests.adapter.bases import mask, noisy, prediction, run, text
from mditface.tests.adapter.reference import predict
from mditface.tests.adapter.test_compiled import compiled
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

ROUNDING = dict(rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def case(cases):
    return cases["z-image"]


@pytest.mark.parametrize("length", [3, 8, 21])
def test_text_of_any_length_reads_one_mask(case, texts, length):
    """The host fills it up to a multiple of 8 here, and the image stands behind it along the first coordinate."""
    labels, x, longer = mask(), noisy(), text(3, length)
    run(case.model, masked(texts[0], labels), texts[1])
    out = prediction(case.model, masked(longer, labels), x=x)
    torch.testing.assert_close(out, predict(x, longer, (case, labels)), **ROUNDING)
    assert run(case.model, masked(longer, labels), texts[1])[1].passes == 0


def scaling(args: dict) -> dict:
    """A model patch of the host's kind: on layer 1 or refiner 1 the image times 0.7."""
    if args["block_index"] == 1:
        args["img"] = 0.7 * args["img"]
    return {"img": args["img"]}


def test_a_model_patch_of_the_layers(case, texts):
    labels, x, model = mask(), noisy(), case.base.clone()
    model.set_model_double_block_patch(scaling)
    expected = predict(x, texts[0], (case, labels), after=lambda kind, i, img: 0.7 * img if i == 1 else img)
    torch.testing.assert_close(prediction(case.apply(model), masked(texts[0], labels), x=x), expected, **ROUNDING)


def test_a_model_patch_of_the_refiner_changes_the_image_alone(case, texts):
    """It runs beside the adapter's own, and the mask's keys are as before."""
    labels, model = mask(), case.base.clone()
    model.set_model_noise_refiner_patch(scaling)
    run(case.model, masked(texts[0], labels), texts[1])
    out, report = run(case.apply(model), masked(texts[0], labels), texts[1])
    torch.testing.assert_close(out, run(case.apply(model), masked(texts[0], mask()), texts[1], OFF)[0], **TOLERANCE)
    assert not torch.allclose(out, run(case.model, masked(texts[0], labels), texts[1])[0], atol=1e-3)
    assert report.notes == []


def test_a_foreign_attention_sees_all_keys_of_the_layers(case, texts):
    keys, model = [], case.base.clone()

    def seen(function, q, k, v, *args, **kwargs):
        keys.append(k.shape[2])
        return function(q, k, v, *args, **kwargs)
    model.model_options["transformer_options"]["optimized_attention_override"] = seen
    positive = masked(texts[0], mask())
    torch.testing.assert_close(prediction(case.apply(model), positive), prediction(case.model, positive), **ROUNDING)
    assert keys == [8] * 2 + [16] * 2 + [8 + 16 + 16] * 3  # refiners of text and image, layers


def test_an_override_that_another_node_drops_is_noticed(case, texts, caplog):
    def wrapper(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        options = {name: value for name, value in transformer_options.items() if name != "optimized_attention_override"}
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
    model = case.model
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "foreign", wrapper)
    with caplog.at_level(logging.WARNING):
        out, report = run(model, masked(texts[0], mask()), texts[1])
    assert torch.equal(out, run(case.base, *texts)[0])
    (note,) = report.notes
    assert note.startswith("no block read the mask") and note in caplog.text


def test_a_compiled_model_is_refused(case, texts):
    with pytest.raises(ValueError, match=r"model: another node compiles it.*\(NextDiT\).*remove that node"):
        prediction(compiled(case.model), masked(texts[0], mask()))
