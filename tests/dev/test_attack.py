"""The attack in a small size: nothing escapes, and what would escape is found."""
import os
import time
from pathlib import Path

import pytest

from devtools.attack import trial
from devtools.attack.trial import attempt

MOST_SECONDS = 600
MUTANTS = 4  # of each reader: a number, not a time, so that every machine tries the same
RUNS = 3
VALUES = 25


def test_no_file_escapes():
    from devtools.attack.files import READERS, attack_files
    found = attack_files(MOST_SECONDS, most=MUTANTS)
    assert found == {"tried": dict.fromkeys(READERS, MUTANTS), "escapes": []}


def test_no_training_is_lost():
    from devtools.attack.training import attack_training
    found = attack_training(RUNS)
    assert found["tried"] == RUNS and found["lost"] == [] and found["mishaps"]["killed"] >= RUNS


def test_no_value_escapes(tmp_path, own_golden):
    from devtools.attack.inputs import attack_inputs
    found = attack_inputs(VALUES, 0, tmp_path, own_golden)
    assert found["tried"] == VALUES and found["escapes"] == []


@pytest.mark.parametrize("failure, end", [
    ({}, "accepted"), ({"exception_type": "ValueError", "exception_message": "gap: no"}, "refused"),
    ({"exception_type": "json.decoder.JSONDecodeError", "exception_message": "gap: no"}, "refused"),
    ({"exception_type": "ValueError", "exception_message": "no"}, "does not name the input"),
    ({"exception_type": "ValueError", "exception_message": "gap" * 1000}, "says too much"),
    ({"exception_type": "KeyError", "exception_message": "gap"}, "raised KeyError")])
def test_an_escaped_value_is_found(failure, end):
    from devtools.attack.inputs import TARGET, Case, judge
    case = Case("MDiT_ControlMaps", "gap", "link", "x")
    assert judge(case, failure and failure | {"node_id": TARGET}, cancelled=False)[0] == end
    assert judge(case, {"exception_type": "ValueError", "exception_message": "gap", "node_id": "other"}, False)[0] == (
        "node other raised ValueError")


def test_a_lost_run_is_found(monkeypatch):
    from devtools.attack import training
    monkeypatch.setattr(training, "MISHAPS", (lambda rng, folder: (folder / "run").write_text("no folder"),))
    monkeypatch.setattr(training.random.Random, "uniform", lambda *_: 0.0)
    assert [run["run"] for run in training.attack_training(1, 3)["lost"]] == [3]


def take_long():
    while True:
        time.process_time()


def take_memory():
    bytearray(700 * 2 ** 20)
    raise ValueError("mutant: told, but too late")


def take_all_memory():
    try:
        bytearray(2 ** 40)
    except MemoryError as error:
        raise ValueError("mutant: told as damage") from error


def refuse():
    raise ValueError("mutant: it is damaged")


@pytest.mark.parametrize("call, wrong", [
    (refuse, None), (lambda: None, None), (lambda: {}["a"], "raised KeyError"), (take_long, "processor time"),
    (take_memory, "700 MB"), (take_all_memory, "ran out of memory"), (lambda: int("x"), "does not name the file"),
    (lambda: os.system("true"), "touched os.system"), (lambda: Path("/tmp/proof").write_text(""), "touched open"),
    (lambda: Path("/boot/x").read_bytes(), "touched open"), (lambda: os.kill(os.getpid(), 9), "raised crash")])
def test_an_escape_is_found(tmp_path, monkeypatch, call, wrong):
    monkeypatch.setattr(trial, "WALL_SECONDS", 120)
    found = attempt(call, tmp_path).find_escape("mutant")
    assert (found is None) if wrong is None else (wrong in found)
