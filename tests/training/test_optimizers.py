"""Optimizers of other packages, and batches one after another: a run resumes with them, bit by bit."""
import importlib
import json

import pytest
import torch
from safetensors.torch import load_file

from mditface.mdit.training.optimizers import KINDS, import_optimizer
from mditface.tests.training.tiny_targets import adapter, encoded_faces, fitted

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.fixture(params=KINDS)
def kind(request):
    if package := KINDS[request.param].package:
        pytest.importorskip(package)
    return request.param


def choose(kind):
    return {"optimiser": {"kind": kind, "adamw": 1.0 if kind == "prodigy" else 0.02}, "accumulate": 2, "batch": 2,
            "rank": 64}  # so that there are terms whose moments have 8 bits


def test_an_interrupted_run_ends_as_one_without_a_break(kind, paths, tmp_path):
    fitted(adapter(paths, **choose(kind)))
    halves = paths | {"output": tmp_path / "halves", "weights": tmp_path / "halves.safetensors"}
    assert fitted(adapter(halves, **choose(kind)), stop=2).step == 2
    fitted(adapter(halves, **choose(kind)))
    once, twice = load_file(paths["weights"]), load_file(halves["weights"])
    assert all(torch.equal(w, twice[name]) for name, w in once.items())
    assert any(w.any() for name, w in once.items() if name.endswith("up"))


def test_the_state_takes_the_bytes_that_are_told(kind, paths):
    target = adapter(paths, **choose(kind))
    trainer = fitted(target, stop=1)
    [optimizer] = trainer.optimizers
    found = 0
    weights = 0
    for w, state in optimizer.state.items():
        if w.numel() >= 4096:  # smaller ones have 32 bits in every kind
            weights += w.numel()
            found += sum(x.nbytes for name, x in state.items() if isinstance(x, torch.Tensor) and "qmap" not in name)
    assert 0.8 < found / weights / KINDS[kind].state < 1.01  # Prodigy keeps no start of weights that start at zero


@pytest.mark.parametrize("kind, package", [("adamw-8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_missing_package_is_named(kind, package, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError(f"No module named '{name}'")
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ValueError, match=f"optimiser: {kind} needs .*'pip install {package}'.* or take adamw"):
        import_optimizer(kind)


def test_a_run_of_an_older_version_goes_on(paths):
    samples = encoded_faces(8)
    fitted(adapter(paths, samples=samples), stop=2)
    file = paths["output"] / "checkpoints" / "step-000002" / "state.json"
    state = json.loads(file.read_text())
    del state["recipe"]["accumulate"], state["recipe"]["optimiser"]["kind"]
    file.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="other values of batch, accumulate"):
        fitted(adapter(paths, samples=samples, accumulate=2, batch=2))
    assert fitted(adapter(paths, samples=samples)).step == 4
