"""The bench of Face-MoGLE on a tiny FLUX."""
import json

import pytest
import torch

import comfy.model_management
from bench import face_mogle
from bench.costs.hosts import BACKBONES, FluxSizes

SIZE = 64


@pytest.fixture(autouse=True)
def tiny_host(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setitem(BACKBONES, "flux", FluxSizes(heads=1, doubles=2, singles=4, control=(1, 2)))
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_enabled", lambda: True)


def test_the_last_line_is_the_result(capsys):
    face_mogle.main(["--size", str(SIZE), "--steps", "4", "--seconds", "0"])
    *table, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    assert (result["size"], result["steps"], result["rounds"]) == (SIZE, 4, face_mogle.LEAST_ROUNDS)
    assert result["methods"].keys() == {"controlnet", "face_mogle", "easycontrol", "easycontrol_merge"}
    assert len(table) == 2 + len(result["methods"])
    found = result["methods"]["face_mogle"]
    width, tokens = 128, (SIZE // 16) ** 2
    kept = 21 * tokens * 64 * 4 + 2 * (2 * 6 + 4 * 3) * width
    assert kept < found["bytes"] < 20 * kept
    assert found["of_base"] == pytest.approx(found["extra_s"] / result["base_s"])


def test_the_calls_are_those_of_the_host():
    """The bench's route gives another picture than the bare model, and the same again."""
    with torch.inference_mode():
        case = face_mogle.Case("flux", SIZE, 1, 12, False, torch.float32, torch.device("cpu"))
        method = face_mogle.FaceMoGLE(case)
        method.compute_once()
        out = method.run()
        assert torch.equal(out, method.run())
        assert not torch.allclose(out, case.run_base(), atol=1e-3)


def test_sizes_that_do_not_fit():
    with pytest.raises(SystemExit):
        face_mogle.main(["--size", "100"])
