"""The bench of MMFace-DiT: what it measures, and its output."""
import json

import pytest
import torch

from bench import mmface
from mditface.tests.mmface.tiny import CONFIG


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mmface, "CONFIG", CONFIG)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def test_bench_ends_with_one_json_object(capsys):
    mmface.main(["--pixels", "64,128", "--rounds", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["dtype"], list(result["sizes"])) == ("mmface", "fp32", ["64", "128"])
    for size in result["sizes"].values():
        for part in mmface.PARTS:
            assert size[f"{part}_share"] == pytest.approx(size[f"{part}_s"] / size["step_s"])


def test_the_condition_is_its_half_of_the_patch_layer():
    device = torch.device("cpu")
    network = mmface.build_network(torch.float32, device)
    torch.manual_seed(2)
    calls = mmface.list_calls(network, 64, torch.float32, device)
    torch.manual_seed(2)
    x = torch.randn(1, CONFIG.in_channels, 8, 8)
    alone = x.clone()
    alone[:, :CONFIG.latent_channels] = 0
    part = network.x_embedder.proj(alone) - network.x_embedder.proj.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(calls["condition"](), part, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("argv, message", [(["--pixels", "500"], "multiple of 16"), (["--rounds", "0"], "at least 1")])
def test_bad_arguments_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        mmface.main(argv)
    assert message in capsys.readouterr().err
