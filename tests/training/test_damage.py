"""Runs of the node whose folder, base or disk changed: what is damaged is told, and what was trained is kept."""
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy.model_management import InterruptProcessingException
from mditface.mdit.training import graph
from mditface.mdit.training.graph import GraphTarget, name_run
from mditface.mdit.training.settings import read_settings
from mditface.mdit.training.targets.adapter import AdapterTarget
from mditface.mdit.training.trainer import Trainer, add_line
from mditface.nodes import training
from mditface.tests.adapter import bases
from mditface.tests.training.test_graph import OUTPUT, SETTINGS, base, data, files, folders, interrupted, opened, run

__all__ = ["base", "folders"]
RUNS = OUTPUT / "mdit_training"
LAYER = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"


@pytest.fixture(scope="module")
def whole(base):
    return run(base, data(9))[0].id  # not as many samples as steps: see `interrupted`


@pytest.fixture
def cut(base, whole, monkeypatch):
    """The checkpoints of a run that ended after five steps: those of steps 4 and 5."""
    with monkeypatch.context() as patched:
        interrupted(patched, 5)
        with pytest.raises(InterruptProcessingException):
            run(base, data(9), checkpoint_steps=2)
    return sorted(RUNS.glob("*/checkpoints/*"))


def count_begun(monkeypatch) -> list:
    """The steps from which runs start or go on."""
    begun = []
    batches = Trainer.load_batches
    monkeypatch.setattr(Trainer, "load_batches", lambda self: begun.append(self.step) or batches(self))
    return begun


def shorten(path):
    path.write_bytes(path.read_bytes()[:-7])


def zero(path):
    content = path.read_bytes()
    path.write_bytes(content[:-16] + bytes(16))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("name, damage", [
    ("average.safetensors", zero), ("model.safetensors", shorten), ("optimizer.bin", remove), ("state.json", zero)])
def test_a_run_falls_back_on_the_checkpoint_before(base, whole, cut, monkeypatch, caplog, name, damage):
    damage(cut[1] / name)
    begun = count_begun(monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert run(base, data(9), checkpoint_steps=2)[0].id == whole
    assert begun == [4] and f"{name}" in caplog.text and "the checkpoint before it" in caplog.text


def test_a_run_without_a_whole_checkpoint_starts_over(base, whole, cut, monkeypatch):
    for folder in cut:
        shorten(folder / "model.safetensors")
    begun = count_begun(monkeypatch)
    assert run(base, data(9), checkpoint_steps=2)[0].id == whole and begun == [0]


def test_a_line_that_was_cut_off_costs_itself_alone(base, whole, cut):
    log = next(RUNS.glob("*/log.jsonl"))
    log.write_bytes(log.read_bytes()[:-9] + b"\xff\0")
    adapter, _, steps = run(base, data(9), checkpoint_steps=2)
    assert adapter.id == whole and steps == SETTINGS["steps"]


def test_losses_are_read_past_damaged_lines(tmp_path):
    lines = [json.dumps({"step": 1, "loss": 0.5}), "{\"step\": 2, \"lo", "[]", "{\"step\": 3}", "\xff",
             json.dumps({"step": 2, "loss": 0.25})]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="latin-1")
    assert graph.read_losses(tmp_path / "log.jsonl") == [0.5, 0.25]


def test_a_line_follows_one_that_was_cut_off(tmp_path):
    log = tmp_path / "log.jsonl"
    for step in (1, 2):
        add_line(log, {"step": step})
    log.write_bytes(log.read_bytes()[:-3])
    add_line(log, {"step": 3})
    assert log.read_text() == "{\"step\": 1}\n{\"step\": \n{\"step\": 3}\n"


@pytest.mark.parametrize("text", ["target: [", "a: \0", "[" * 5000, "a: 2026-99-99"])
def test_a_configuration_that_is_no_yaml_is_named(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match="run.yaml: "):
        read_settings(tmp_path / "run.yaml", [], {})
    (tmp_path / "run.yaml").write_text("target: adapter")
    with pytest.raises(ValueError, match="'steps=.*': it is no YAML"):
        read_settings(tmp_path / "run.yaml", [f"steps={text}"], {})


def test_a_base_that_was_replaced_begins_another_run(tmp_path):
    model = opened("sd3", tmp_path)
    settings = graph.make_settings(training.DEFAULTS | SETTINGS, tmp_path / "tiny-sd3.safetensors", tmp_path, tmp_path,
                                   "no")
    name = name_run(settings, model, [])
    assert name == name_run(settings, model, [])
    weights = bases.published("sd3")
    weights[next(iter(weights))].view(-1)[0] += 1
    save_file(weights, tmp_path / "tiny-sd3.safetensors")
    assert name_run(settings, model, []) != name


def test_a_lora_has_one_name_in_every_process(base, tmp_path):
    def tell(value):
        changed = base.clone()
        changed.add_patches({LAYER: (torch.full((576, 192), value),)}, 0.5)
        settings = graph.make_settings(training.DEFAULTS | SETTINGS, tmp_path, tmp_path, tmp_path, "no")
        return name_run(settings, changed, [])
    assert tell(0.1) == tell(0.1) != tell(0.2)


@pytest.mark.parametrize("prefix, said", [("a" * 300, "too long"), ("b" * 300 + "/a", "too long")])
def test_names_that_cannot_be_written_are_told_before_the_training(base, monkeypatch, prefix, said):
    monkeypatch.setattr(graph, "train", None)
    with pytest.raises(ValueError, match=f"filename_prefix: .*{said}"):
        run(base, filename_prefix=prefix)


@pytest.mark.parametrize("method", ["touch", "mkdir"])
def test_a_folder_that_is_closed_is_told_before_the_training(base, monkeypatch, method):
    plain = getattr(Path, method)

    def refuse(path, *args, **kwargs):
        if OUTPUT in path.parents:
            raise PermissionError(13, "Permission denied")
        return plain(path, *args, **kwargs)
    monkeypatch.setattr(Path, method, refuse)
    monkeypatch.setattr(Trainer, "fit", None)
    with pytest.raises(ValueError, match="filename_prefix: .*Permission denied.*writ(e|ing) to this folder"):
        run(base)


def test_a_full_disk_is_told_before_the_training(base, monkeypatch):
    usage = shutil.disk_usage(OUTPUT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 ** 12))
    monkeypatch.setattr(Trainer, "fit", None)
    with pytest.raises(ValueError, match="filename_prefix: the checkpoints need .* MB are free"):
        run(base)


def test_a_disk_that_fills_up_loses_nothing(base, whole, monkeypatch):
    with monkeypatch.context() as patched:
        def save(*_):
            raise OSError(28, "No space left on device")
        patched.setattr(GraphTarget, "save", save)
        with pytest.raises(ValueError, match="filename_prefix: .*No space left.*start the run again"):
            run(base, data(9))
    begun = count_begun(monkeypatch)
    monkeypatch.setattr(AdapterTarget, "start", None)
    assert run(base, data(9))[0].id == whole and begun == [SETTINGS["steps"]]
    assert files("mdit_training") == []
