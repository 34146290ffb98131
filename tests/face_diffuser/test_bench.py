"""The bench of Face-diffuser: its output, and that a fused prediction takes longer than the two alone."""
import json

import pytest
import torch

from bench import face_diffuser

CPU = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def as_the_host_runs_nodes():
    """A bench chooses inference mode itself."""


def test_the_last_line_is_the_result(monkeypatch, capsys):
    monkeypatch.setattr(face_diffuser, "time_step", lambda *args: 2.0)
    face_diffuser.main(["--pixels", "64", "--rounds", "3"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["share"] == (found["fused_s"] - found["alone_s"]) / 2 and found["pixels"] == 64


def test_the_guider_costs_something_but_little():
    with torch.inference_mode():
        fused, alone = face_diffuser.measure_overhead(torch.randn(1, 4, 64, 64), 20, *CPU)
    assert 0 < fused - alone < 0.1


@pytest.mark.parametrize("wrong", [["--pixels", "100"], ["--rounds", "0"]])
def test_arguments(wrong, capsys):
    with pytest.raises(SystemExit):
        face_diffuser.main(wrong)
    assert "must be" in capsys.readouterr().err
