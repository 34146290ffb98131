"""The attack in a small size: nothing escapes, and what would escape is found."""
import functools
import json
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
SEQUENCES = 5


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


def test_no_result_is_stale():
    from devtools.attack.cache import attack_cache
    found = attack_cache(MOST_SECONDS, names=("mdit", "easycontrol"), most=SEQUENCES)
    assert found["tried"] >= 2 * SEQUENCES and found["wrong"] == [] and found["counts"]["cache hits"] > 0


@pytest.fixture(scope="module")
def subjects(tmp_path_factory):
    """The models that the cache is attacked on, each made when it is asked for."""
    import torch
    from devtools.attack.cache import SUBJECTS
    folder = tmp_path_factory.mktemp("subjects")

    def make(name):
        with torch.inference_mode():
            return SUBJECTS[name](folder / name)
    return functools.cache(make)


FORGOTTEN = {  # by the key: what is changed. Another computation type renews patches_uuid, too
    "patches_uuid": {"lora": 0.9}, "hooks": {"hook": [1.0, {"0.0": 0.3, "0.5": 1.0}]}, "injections": {"bypass": 0.9},
    "objects": {"object": True}, "mode": {"mode": "8-bit"}, "digest": {"size": 1},
    "rope": {"rope": 2.0}, "prompt": {"prompt": 1}, "identity": {"adapter_weight": 0.4}}


@pytest.mark.parametrize("part", FORGOTTEN)
def test_a_stale_result_is_found_and_shrunk(subjects, monkeypatch, capsys, part):
    from devtools.attack.cache import Counter, report_wrong, run_sequence
    from mditface.mdit.mditface import reader

    def forget(*arguments, make_key=reader.make_key):
        key = make_key(*arguments)
        if part in key._fields:
            return key._replace(**{part: None})
        return key._replace(inputs=key.inputs._replace(**{part: None}))
    monkeypatch.setattr(reader, "make_key", forget)
    name = "easycontrol" if part in ("prompt", "identity") else "mdit"
    steps = [{"seed": 1}, {"cfg": 1.0, "batch": 2}, {"seed": 1, **FORGOTTEN[part]}]
    subject = subjects(name)
    found = run_sequence(subject, steps, Counter())
    assert "differs by" in found
    smallest = report_wrong(subject, name, steps, found)
    needed = [FORGOTTEN[part]] if part == "hooks" else [{}, FORGOTTEN[part]]  # keyframes change within a run
    assert smallest["sequence"] == [name, needed]
    assert json.dumps(smallest["sequence"]) in capsys.readouterr().out
    monkeypatch.undo()
    assert run_sequence(subject, steps, Counter()) is None


def test_a_cache_that_keeps_room_or_outlives_its_mask_is_found(subjects, monkeypatch):
    from devtools.attack.cache import Counter, run_sequence
    from mditface.mdit.mditface import cache
    subject = subjects("mdit")
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(cache.StaticMaskCache, "finish", kept.append)
        assert "a cache still plans" in run_sequence(subject, [{}], Counter())
    with monkeypatch.context() as patch:
        finish = cache.StaticMaskCache.finish
        patch.setattr(cache.StaticMaskCache, "finish", lambda self: kept.append(self) or finish(self))
        assert run_sequence(subject, [{}], Counter()) == "1 caches outlive their masks"


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
