"""The bench of InteractDiffusion: its forms compute the same, and its output."""
import json

import pytest
import torch

from bench import interactdiffusion
from mditface.tests.interactdiffusion import tiny


@pytest.fixture(scope="module")
def as_the_host_runs_nodes():
    """A bench chooses inference mode itself."""


@pytest.fixture
def case():
    with torch.inference_mode():
        yield interactdiffusion.Case(64, 2, torch.device("cpu"), torch.float32, tiny.UNET, tiny.SIZES)


def test_forms_compute_the_same(case):
    bare = case.run_step(lambda x, options: x)
    steps = [case.run_step(patch) for patch in case.forms.values()]
    for step in steps:
        torch.testing.assert_close(step, steps[0], rtol=0, atol=1e-4)
    assert (bare - steps[0]).abs().max() > 0.01


def test_the_sizes_are_those_of_the_published_file():
    """Parameters of fusers and position net: docs/design/interactdiffusion.md, section 10."""
    factory = dict(device="meta", operations=interactdiffusion.comfy.ops.disable_weight_init)
    network = interactdiffusion.InteractDiffusion(interactdiffusion.SIZES, **factory)
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (network.fusers, network.position_net)]
    assert counts == [208_018_272, 2_193_216]


def test_the_bare_unet_is_stable_diffusion_15():
    unet = interactdiffusion.UNetModel(**interactdiffusion.UNET, device="meta", dtype=torch.float32,
                                 operations=interactdiffusion.comfy.ops.disable_weight_init)
    assert len(unet.state_dict()) == 686
    assert tuple(block.in_channels for block in unet.modules() if type(block).__name__ == "SpatialTransformer"
                 ) == interactdiffusion.WIDTHS


def test_bench_ends_with_one_json_object(monkeypatch, capsys):
    made = interactdiffusion.Case
    monkeypatch.setattr(interactdiffusion, "Case", lambda *args: made(*args, tiny.UNET, tiny.SIZES))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    interactdiffusion.main(["--size", "64", "--rows", "1", "--rounds", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["size"], result["rows"], result["target"]) == ("interactdiffusion", 64, 1, 0.6)
    assert result["forms"].keys() == {"ours", "no reuse", "plain", "plain, host attention"}
    assert result["forms"]["ours"]["ours_over_it"] == 1
    assert result["error"] < 1e-4


@pytest.mark.parametrize("argv, message", [(["--size", "100"], "multiple of 64"), (["--rows", "0"], "at least 1")])
def test_bad_arguments_are_named(argv, message, capsys):
    with pytest.raises(SystemExit):
        interactdiffusion.main(argv)
    assert message in capsys.readouterr().err
