"""Runs of the trainer with the laboratory's targets, on a tiny scale: configuration, checkpoints, log, command."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from mditface.mdit.recipes import train
from mditface.mdit.recipes.targets.kinds import SETTINGS, DemoSettings, DemoTarget, JudgeSettings, JudgeTarget
from mditface.mdit.training.settings import read_settings
from mditface.mdit.training.targets.adapter import AdapterSettings
from mditface.mdit.training.trainer import LOCK, LOG, Trainer, read_log
from mditface.tests.recipes.tiny_targets import DEMO, JUDGE, MODEL, target_of
from mditface.tests.training.tiny_targets import ADAPTER, EVERY, fitted

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.mark.parametrize("name", ["demo", "judge", "sd3", "flux", "dynast", "autoencoder"])
def test_interrupted_run_ends_as_one_without_a_break(name, paths, tmp_path):
    whole = fitted(target_of(name, paths))
    halves = paths | {"output": tmp_path / "halves", "weights": tmp_path / "halves.safetensors"}
    first = fitted(target_of(name, halves), stop=2)
    assert first.step == 2 and not halves["weights"].exists()
    second = fitted(target_of(name, halves))
    assert whole.step == second.step == 4
    for part in ("live", "mean"):
        once, twice = getattr(whole.average, part), getattr(second.average, part)
        assert once.keys() == twice.keys() and all(torch.equal(w, twice[key]) for key, w in once.items())
    once, twice = load_file(paths["weights"]), load_file(halves["weights"])
    assert once.keys() == twice.keys() and all(torch.equal(w, twice[key]) for key, w in once.items())


def test_checkpoints_are_whole_and_the_last_two(demo):
    trainer = fitted(demo)
    folder = demo.settings.output / "checkpoints"
    assert [path.name for path in trainer.checkpoints] == ["step-000002", "step-000004"]
    (folder / "step-000006.part").mkdir()
    assert trainer.checkpoints[-1].name == "step-000004"
    trainer.step = 6
    trainer.save_checkpoint()
    assert sorted(path.name for path in folder.iterdir()) == ["step-000004", "step-000006"]


def test_other_recipe_in_the_same_folder(demo, paths):
    fitted(demo, stop=2)
    other = DemoTarget(DemoSettings(**DEMO | {"seed": 1, "ema": 0.5}, **paths))
    with pytest.raises(ValueError, match="other values of ema, seed"):
        fitted(other)


def changed_data(shards):
    """The same shards, with one more sample."""
    file = shards / "00000.npz"
    with np.load(file) as arrays:
        longer = {name: np.concatenate([x, x[:1]]) for name, x in arrays.items()}
    np.savez(file, **longer)


def test_other_data_and_another_number_of_processes_are_no_resumed_run(paths, demo):
    fitted(demo, stop=2)
    state = paths["output"] / "checkpoints" / "step-000002" / "state.json"
    text = state.read_text()
    other = json.loads(text) | {"processes": 2}
    other["recipe"]["content of data"] = "the first batch is another one, too"
    state.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="a run of 2 process.*, not 1: launch as many"):
        fitted(target_of("demo", paths))
    state.write_text(text)
    changed_data(paths["data"])
    with pytest.raises(ValueError, match="other values of content of data"):
        fitted(target_of("demo", paths))


def test_files_are_known_by_their_contents(paths, tmp_path):
    recipes = []
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"0")
        files = {"base": tmp_path / name, "clip": (tmp_path / name,), "cache": tmp_path / f"{name}-cache"}
        recipes.append(AdapterSettings(**ADAPTER | files, **paths).describe_recipe())
    assert recipes[0] == recipes[1]
    (tmp_path / "two").write_bytes(b"1")
    assert AdapterSettings(**ADAPTER | files, **paths).describe_recipe() != recipes[1]


def test_one_run_works_in_a_folder(demo, paths):
    paths["output"].mkdir()
    with FileLock(paths["output"] / LOCK), pytest.raises(ValueError, match="output: another run works in"):
        fitted(demo)


def test_a_new_run_overwrites_no_file(demo, paths):
    paths["weights"].parent.mkdir()
    paths["weights"].write_text("another's")
    with pytest.raises(ValueError, match="weights: .* exists, and no run in"):
        fitted(demo)
    assert paths["weights"].read_text() == "another's"


def test_a_resumed_run_tells_each_step_once(paths):
    fitted(target_of("judge", paths), stop=2)
    log = paths["output"] / LOG
    with open(log, "ab") as file:
        file.write(b'{"step": 3, "loss": 1.0}\n{"step": 4, "lo')  # of a process that was killed
    fitted(target_of("judge", paths))
    assert [line["step"] for line in read_log(log) if "loss" in line] == [1, 2, 3, 4]


def test_others_may_read_the_finished_file(demo, paths):
    fitted(demo)
    plain = paths["output"] / LOG
    assert paths["weights"].stat().st_mode == plain.stat().st_mode


def test_a_loss_that_is_not_finite_ends_the_run(demo, paths):
    demo.module.model.final.linear.bias.data.fill_(float("inf"))
    with pytest.raises(ValueError, match="optimiser: the loss is not finite at step 1: lower"):
        fitted(demo)
    assert not paths["weights"].exists()


def test_the_model_has_the_datas_resolution(paths):
    with pytest.raises(ValueError, match="model.resolution: 64, but the images in .* have 32 pixels"):
        target_of("demo", paths, model=MODEL | {"resolution": 64})


def test_run_leaves_log_sheet_and_measurements(paths):
    values = JUDGE | {"every": EVERY | {"sheet": 2, "metrics": 3}}
    fitted(JudgeTarget(JudgeSettings(**values, **paths)))
    lines = [json.loads(line) for line in (paths["output"] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "mean_iou" in line] == [3, 4]
    told = [line for line in lines if "loss" in line]
    assert all(line["gradient_norm"] > 0 < line["samples_per_second"] and line["memory_gib"] > 0.01 for line in told)
    assert told[0]["minutes_left"] > told[3]["minutes_left"] == 0
    assert told[0]["learning_rate"] == JUDGE["optimiser"]["adamw"] > told[3]["learning_rate"]
    assert sorted(path.name for path in (paths["output"] / "sheets").iterdir()) == ["000002.png", "000004.png"]
    assert list(paths["output"].glob("log/*tfevents*"))


def test_batch_depends_on_seed_step_and_process_alone(demo, paths):
    later, again = demo.make_batch(3, 1, 2), DemoTarget(demo.settings)
    again.make_batch(0, 0, 1)
    assert all(torch.equal(x, again.make_batch(3, 1, 2)[name]) for name, x in later.items())
    assert not torch.equal(later["images"], demo.make_batch(3, 0, 2)["images"])


def config_file(tmp_path, values):
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(values, default=str))
    return path


def test_configuration_errors_name_the_keys(paths, tmp_path):
    values = {**DEMO, **paths, "stepz": 3, "batch": "many", "model": {**MODEL, "heads": 3}}
    del values["optimiser"]
    with pytest.raises(ValueError) as caught:
        read_settings(config_file(tmp_path, values), [], SETTINGS)
    for part in ("stepz: unknown key", "optimiser: missing key", "batch: Input should be a valid integer",
                 "model: Value error, mdit.config: width 32 over 3 heads"):
        assert part in str(caught.value)
    for target in ("dmeo", {"demo": 1}, ["demo"], None):
        with pytest.raises(ValueError, match="must be one of demo, adapter, judge"):
            read_settings(config_file(tmp_path, {"target": target}), [], SETTINGS)
    with pytest.raises(ValueError, match="5: "):
        read_settings(config_file(tmp_path, {**DEMO, **paths, 5: "a number as a key"}), [], SETTINGS)
    values = {**DEMO, **paths, "model": {**MODEL, "hedas": 2}}
    with pytest.raises(ValueError, match="unknown keys hedas"):
        read_settings(config_file(tmp_path, values), [], SETTINGS)
    with pytest.raises(FileNotFoundError, match="no configuration"):
        read_settings(tmp_path / "none.yaml", [], SETTINGS)


def test_command_line_changes_the_configuration(paths, tmp_path):
    file = config_file(tmp_path, {**DEMO, **paths})
    settings = read_settings(file, ["steps=9", "optimiser.adamw=1e-3"], SETTINGS)
    assert settings.steps == 9 and settings.optimiser.adamw == 1e-3 and settings.optimiser.muon == 0.01
    with pytest.raises(ValueError, match="key=value"):
        read_settings(file, ["steps"], SETTINGS)


@pytest.mark.parametrize("name", ["no", "fp32", "'no'"])
def test_full_precision_has_two_names(name, paths, tmp_path):
    file = config_file(tmp_path, {**DEMO, **paths})
    assert read_settings(file, [f"precision={name}"], SETTINGS).precision == "no"
    with pytest.raises(ValueError, match="precision: "):
        read_settings(file, ["precision=fp8"], SETTINGS)
    with pytest.raises(ValueError, match="precision: "):
        read_settings(file, ["precision=[no]"], SETTINGS)


CONFIGURATIONS = ("demo", "demo-fine", "demo-latent", "demo-latent-large", "judge", "judge-large",
                  "autoencoder", "polish", "relief", "adapter-sd35", "adapter-flux", "adapter-klein",
                  "adapter-qwen-image", "adapter-z-image", "adapter-chroma")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_shipped_configurations_are_sound(name, root):
    assert read_settings(root / "mdit" / "recipes" / "configs" / f"{name}.yaml", [], SETTINGS)


def test_command_reports_errors_in_one_line(paths, tmp_path, capsys):
    file = config_file(tmp_path, {**DEMO, **paths, "data": tmp_path / "nowhere"})
    with pytest.raises(SystemExit) as exit:
        train.main([str(file)])
    assert exit.value.code == 2 and "no finished shard" in capsys.readouterr().err


def test_command_tells_what_a_run_finds_late(paths, tmp_path, capsys, monkeypatch):
    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    cases = ((["batch=99"], None, "data: it holds 16 samples, fewer than a batch of 99"),
             ([], fail, "output: a file of the run .* No space left on device.*resumes"))
    for changes, fault, told in cases:
        if fault:
            monkeypatch.setattr(Trainer, "save_checkpoint", fault)
        with pytest.raises(SystemExit) as exit:
            train.main([str(config_file(tmp_path, {**JUDGE, **paths})), *changes])
        assert exit.value.code == 2 and re.search(told, capsys.readouterr().err)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2 ** 12))
    with pytest.raises(SystemExit):
        train.main([str(config_file(tmp_path, {**JUDGE, **paths}))])
    assert "output: the checkpoints need" in capsys.readouterr().err


def test_accelerate_launch_on_the_cpu_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    train.check_launch(1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    train.check_launch(2)
    with pytest.raises(ValueError, match="num_processes: .*one process: use torchrun"):
        train.check_launch(1)


def test_interrupt_ends_the_command_with_a_checkpoint(paths, tmp_path, root):
    file = config_file(tmp_path, {**JUDGE, **paths, "steps": 100000, "every": EVERY | {"checkpoint": 100000}})
    log = paths["output"] / "log.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "mdit.recipes.train", str(file)], cwd=root, text=True,
                               stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == train.STOPPED and re.search("stopped after step .* of 100000; the same command", said)
    assert "processes: 1, device: cpu, samples a step: 1 x 4 = 4, an epoch: 16 samples in 4 steps" in said
    assert len(list((paths["output"] / "checkpoints").iterdir())) == 1
    assert not paths["weights"].exists()


def test_changes_of_a_configuration_are_optional(capsys):
    with pytest.raises(SystemExit):
        train.main([])
    assert capsys.readouterr().err.endswith("required: config\n")
