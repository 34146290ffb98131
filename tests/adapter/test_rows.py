"""Batches that other nodes split, with a label map for each latent that an adapter reads."""
import pytest
import torch

from comfy.patcher_extension import WrappersMP
from mditface.tests.adapter.bases import mask, noisy, prediction, run, text
from mditface.tests.mditface.runs import masked
from mditface.tests.mditface.test_rows import windows
from mditface.tests.shared import hooks

MAPS = 3
LATENT = (MAPS, 16, 8, 8)
CLOSE = dict(rtol=0, atol=1e-4)
SPLITS = {"row by row": hooks.split_rows(lambda n: [[i] for i in range(n)]),
          "backwards": hooks.split_rows(lambda n: [list(range(n))[::-1]]), "windows": windows}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_each_latent_reads_its_own_map(case, texts, split):
    labels = mask(MAPS)
    expected, _ = run(case.model, masked(texts[0], labels), texts[1], latent=LATENT)
    found, report = run(split(case.model), masked(texts[0], labels), texts[1], latent=LATENT)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not report.notes
    swapped = mask(MAPS)
    swapped.labels = labels.labels.flip(0)
    other, _ = run(split(case.model), masked(texts[0], swapped), texts[1], latent=LATENT)
    assert not torch.allclose(other, expected, atol=1e-2)


@pytest.mark.parametrize("family", ["flux", "easycontrol"])
def test_rows_that_change_inside_the_network_are_refused(cases, texts, family):
    """On FLUX: the host wraps no network of SD3."""
    def double(value, rows):
        return torch.cat((value, value)) if torch.is_tensor(value) and value.ndim and len(value) == rows else value

    def twice(executor, x, *args, **kwargs):
        doubled = {name: double(arg, len(x)) for name, arg in kwargs.items()}
        return executor(double(x, len(x)), *(double(arg, len(x)) for arg in args), **doubled)[:len(x)]
    model = cases[family].model
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "foreign", twice)
    with pytest.raises(ValueError, match="model: another node changes the batch from 2 to 4 rows inside the network"):
        run(model, masked(texts[0], mask()), texts[1])


def test_prompts_that_differ_by_row_are_refused_where_rows_are_taken_out(cases):
    """EasyControl's keys depend on the prompt: each row would need keys of its own."""
    case = cases["easycontrol"]
    (context, values), = text(0)
    pooled = torch.cat([text(i)[0][1]["pooled_output"] for i in range(MAPS)])
    different = [[context, {**values, "pooled_output": pooled}]]
    model = hooks.split_rows(lambda n: [[0, 1], [2]] if n == MAPS else [[i] for i in range(n)])(case.model)
    with pytest.raises(ValueError, match="model: another node samples 2 of 3 latents at a time"):
        prediction(model, masked(different, mask(MAPS)), x=noisy(MAPS))
