"""The bench of DynaST: its direct network agrees with the reference; its output."""
import json

import pytest
import torch
from safetensors.torch import load_file

from bench import dynast
from bench.costs.dynast import run_direct
from mditface.mdit.dynast.model import DynaST
from mditface.mdit.dynast.weights import read_generator
from mditface.tests.dynast import tiny


def test_the_direct_network_agrees_with_the_reference(own_golden):
    """On the golden set, where no decision is close."""
    golden = own_golden / "dynast"
    config, weights = read_generator(str(golden / "generator_deepfashion.safetensors"), 4, 0.01)
    network = DynaST(config).eval()
    network.load_state_dict(weights)
    case = load_file(golden / "forward_deepfashion.safetensors")
    with torch.inference_mode():
        found = run_direct(network, case["in.seg_u8"] / 255, case["in.ref_image"], case["in.ref_seg_u8"] / 255)
    torch.testing.assert_close(found, case["out.image"], rtol=1e-3, atol=1e-4)


def test_bench_ends_with_one_json_object(monkeypatch, capsys):
    monkeypatch.setattr(dynast, "CONFIG", tiny.CONFIG)
    monkeypatch.setattr(dynast, "run_in_process", dynast.run)
    dynast.main(["--pixels", "32", "--rounds", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["pixels"]) == ("dynast", 32)
    assert result["time_ratio"] == result["ours_s"] / result["direct_s"]


@pytest.mark.parametrize("argv, message", [(["--pixels", "36"], "multiple of 8"), (["--pixels", "16"], "at least 32"),
                                        (["--rounds", "0"], "at least 1"), (["--threads", "0"], "at least 1")])
def test_bad_arguments_are_told(argv, message, capsys):
    with pytest.raises(SystemExit):
        dynast.main(argv)
    assert message in capsys.readouterr().err
