"""Runs of the trainer with the laboratory's targets, on a tiny scale: configuration, checkpoints, log, command."""
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from mditface.mdit.recipes import train
from mditface.mdit.recipes.targets.kinds import SETTINGS, DemoSettings, DemoTarget, JudgeSettings, JudgeTarget
from mditface.mdit.training.settings import read_settings
from mditface.tests.recipes.tiny_targets import DEMO, JUDGE, MODEL, target_of
from mditface.tests.training.tiny_targets import EVERY, fitted

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


def test_run_leaves_log_sheet_and_measurements(paths):
    values = JUDGE | {"every": EVERY | {"sheet": 2, "metrics": 3}}
    fitted(JudgeTarget(JudgeSettings(**values, **paths)))
    lines = [json.loads(line) for line in (paths["output"] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "mean_iou" in line] == [3, 4]
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
                  "adapter-qwen-image")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_shipped_configurations_are_sound(name, root):
    assert read_settings(root / "mdit" / "recipes" / "configs" / f"{name}.yaml", [], SETTINGS)


def test_command_reports_errors_in_one_line(paths, tmp_path, capsys):
    file = config_file(tmp_path, {**DEMO, **paths, "data": tmp_path / "nowhere"})
    with pytest.raises(SystemExit) as exit:
        train.main([str(file)])
    assert exit.value.code == 2 and "no finished shard" in capsys.readouterr().err


def test_interrupt_ends_the_command_with_a_checkpoint(paths, tmp_path, root):
    file = config_file(tmp_path, {**JUDGE, **paths, "steps": 100000, "every": EVERY | {"checkpoint": 100000}})
    log = paths["output"] / "log.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "mdit.recipes.train", str(file)], cwd=root)
    try:
        deadline = time.monotonic() + 120
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert len(list((paths["output"] / "checkpoints").iterdir())) == 1
    assert not paths["weights"].exists()


def test_changes_of_a_configuration_are_optional(capsys):
    with pytest.raises(SystemExit):
        train.main([])
    assert capsys.readouterr().err.endswith("required: config\n")
