"""Two real processes with gloo, and batches one after another, train like one process with the whole batch."""
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


def fit(root, folder, processes, batch, accumulate):
    """A run under torchrun; returns its output, weights and log."""
    folder.mkdir()
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", processes, "--master_port", find_port()]
    run = start(root, *launch, SCRIPT, folder, batch, accumulate)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    return said, load_file(folder / "line.safetensors"), read_log(folder / "run" / LOG)


def check_same(weights, log, expected, expected_log):
    for name, w in expected.items():
        torch.testing.assert_close(weights[name], w, rtol=1e-5, atol=1e-6)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "gradient_norm"):
        assert [line[name] for line in log] == pytest.approx([line[name] for line in expected_log], rel=1e-5)


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    return fit(root, tmp_path_factory.mktemp("whole") / "one", 1, 8, 1)[1:]


def test_batches_one_after_another_are_one_large_batch(root, tmp_path, whole):
    said, *found = fit(root, tmp_path / "parts", 1, 2, 4)
    assert said.count("processes: 1, device: cpu, samples a step: 4 x 2 = 8, an epoch: 24 samples in 3 steps") == 2
    check_same(*found, *whole)


@pytest.mark.parametrize("batch, accumulate", [(4, 1), (2, 2)])
def test_two_processes_are_one_with_twice_the_batch(root, tmp_path, whole, batch, accumulate):
    said, *found = fit(root, tmp_path / "two", 2, batch, accumulate)
    parts = 2 * accumulate
    assert said.count(f"processes: 2, device: cpu, samples a step: {parts} x {batch} = 8, an epoch: 24 samples in 3 "
                      "steps") == 2
    check_same(*found, *whole)
    checkpoint = tmp_path / "two" / "run" / "checkpoints" / "step-000006"
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["processes"] == 2 and "random_states_1.pkl" in state["files"]
    assert not any("frozen" in name for name in load_file(checkpoint / "model.safetensors"))


def test_processes_share_the_samples_of_a_larger_batch():
    whole, parts = Batches([0] * 24, 8, seed=3), Batches([0] * 24, 4, seed=3)
    for step in range(6):
        first, second = (set(parts(step, process, 2).tolist()) for process in range(2))
        assert not first & second and first | second == set(whole(step, 0, 1).tolist())
