"""Two real processes with gloo train like one with twice the batch."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mditface.mdit.training.targets.base import Batches
from mditface.mdit.training.trainer import LOG, read_log

SCRIPT = Path(__file__).with_name("fit_line.py")


def start(root, *command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}{os.pathsep}{os.environ['PYTHONPATH']}"}
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=root, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def find_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_are_one_with_twice_the_batch(root, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", find_port()]
    runs = [start(root, SCRIPT, tmp_path / "one", 8), start(root, *launch, SCRIPT, tmp_path / "two", 4)]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(said)
    assert said[1].count("processes: 2, device: cpu, samples a step: 2 x 4 = 8, an epoch: 24 samples in 3 steps") == 2
    once, twice = (load_file(tmp_path / name / "line.safetensors") for name in ("one", "two"))
    for name, w in once.items():
        torch.testing.assert_close(twice[name], w, rtol=1e-5, atol=1e-6)
    logs = [read_log(tmp_path / name / "run" / LOG) for name in ("one", "two")]
    assert [line["step"] for line in logs[1]] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in logs[1]] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-5)
    checkpoint = tmp_path / "two" / "run" / "checkpoints" / "step-000006"
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["processes"] == 2 and "random_states_1.pkl" in state["files"]
    assert not any("frozen" in name for name in load_file(checkpoint / "model.safetensors"))


def test_processes_share_the_samples_of_a_larger_batch():
    whole, parts = Batches([0] * 24, 8, seed=3), Batches([0] * 24, 4, seed=3)
    for step in range(6):
        first, second = (set(parts(step, process, 2).tolist()) for process in range(2))
        assert not first & second and first | second == set(whole(step, 0, 1).tolist())
