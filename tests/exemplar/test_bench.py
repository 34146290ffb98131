"""The bench of DynaST: its direct network is the pack's, and its output."""
import json

import pytest
import torch

from bench import exemplar
from bench.costs.dynast import direct
from mditface.tests.exemplar import tiny


def test_the_direct_network_is_the_packs():
    network = tiny.network()
    inputs = tiny.smooth(2, 15, 32, 32), tiny.smooth(2, 3, 32, 32, seed=1) * 2 - 1, tiny.smooth(2, 15, 32, 32, seed=2)
    with torch.inference_mode():
        torch.testing.assert_close(direct(network, *inputs), network(*inputs).image, rtol=0, atol=1e-3)


def test_bench_ends_with_one_json_object(monkeypatch, capsys):
    monkeypatch.setattr(exemplar, "CONFIG", tiny.CONFIG)
    monkeypatch.setattr(exemplar, "apart", exemplar.run)
    exemplar.main(["--pixels", "32", "--rounds", "1"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["bench"], result["pixels"]) == ("exemplar", 32)
    assert result["time_ratio"] == result["ours_s"] / result["direct_s"]


@pytest.mark.parametrize("argv, told", [(["--pixels", "36"], "multiple of 8"), (["--pixels", "16"], "at least 32"),
                                        (["--rounds", "0"], "at least 1"), (["--threads", "0"], "at least 1")])
def test_bad_arguments_are_told(argv, told, capsys):
    with pytest.raises(SystemExit):
        exemplar.main(argv)
    assert told in capsys.readouterr().err
