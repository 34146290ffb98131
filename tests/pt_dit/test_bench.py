"""The bench of PT-DiT: its direct block agrees with ours; its output."""
import json

import pytest
import torch

from bench import pt_dit
from mditface.tests.pt_dit.tiny import CONFIG


def test_bench_ends_with_one_json_object(monkeypatch, capsys):
    monkeypatch.setattr(pt_dit, "CONFIG", CONFIG)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    pt_dit.main(["--pixels", "128,256", "--rounds", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["dtype"], list(result["sizes"])) == ("pt_dit", "fp32", ["128", "256"])
    for size in result["sizes"].values():
        assert size["error"] < 1e-4
        assert size["direct_step_ratio"] == pytest.approx(size["pair_s"] / (size["prompt_s"] + size["empty_s"]))


def test_error_would_show_another_block(monkeypatch):
    monkeypatch.setattr(pt_dit, "CONFIG", CONFIG)
    case = pt_dit.Case(128, 60, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        case.two.mask.zero_()
        assert case.compute_error() > 1e-3


@pytest.mark.parametrize("argv, message", [(["--pixels", "500"], "multiple of 128"), (["--rounds", "0"], "at least 1"),
                                        (["--text-tokens", "201"], "1 to 200")])
def test_bad_arguments_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit):
        pt_dit.main(argv)
    assert message in capsys.readouterr().err
