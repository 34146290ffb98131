"""Breaks training runs: kills them at random moments, damages what they keep, replaces their base, fills their disk.

Whatever happened, the run that follows must end in the weights of a run without a break, bit by bit.
"""
from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from mditface.mdit.shared.digests import compute_file_digest
from mditface.mdit.training.trainer import read_state
from mditface.tests.training.tiny_targets import adapter, fitted, run_paths

STEPS = 8
BASE = "base.safetensors"  # stands for the base's file: the tiny base itself is made in memory
ERROR = "error.txt"
SIZES = (0, 1000, 20_000)  # bytes that a file may have when the disk is full


def attack_training(runs: int, start: int = 0) -> dict:
    """Breaks `runs` runs; the same number breaks a run in the same way, but for the moments of the kills.

    Returns how many were tried, how often each mishap happened, and the numbers of the runs that ended otherwise.
    """
    torch.set_num_threads(1)
    mishaps: Counter = Counter()
    lost = []
    with tempfile.TemporaryDirectory() as folder:
        whole = prepare(Path(folder, "whole"))
        began = time.monotonic()
        train(whole)
        seconds = time.monotonic() - began
        expected = describe_end(whole)
        for number in range(start, start + runs):
            own = prepare(Path(folder, str(number)))
            mishaps.update(break_run(random.Random(number), own, seconds))
            train(own)
            if (found := describe_end(own)) != expected:
                print(f"run {number}: {found}")
                lost.append({"run": number, "wrong": found[:300]})
    return {"tried": runs, "lost": lost, "mishaps": dict(mishaps)}


def prepare(folder: Path) -> Path:
    folder.mkdir()
    (folder / BASE).write_bytes(b"the base")
    return folder


def break_run(rng: random.Random, folder: Path, seconds: float) -> list[str]:
    """One to three kills, each followed by a mishap; their names."""
    happened = []
    for _ in range(rng.randint(1, 3)):
        train(folder, kill_after=rng.uniform(0, 1.2 * seconds))
        mishap = rng.choice(MISHAPS)
        mishap(rng, folder)
        happened += ["killed", mishap.__name__]
    return happened


def nothing_else(rng: random.Random, folder: Path) -> None:
    pass


def damaged_checkpoint(rng: random.Random, folder: Path) -> None:
    """Cuts, zeroes or removes a file of the newest checkpoint."""
    newest = sorted((folder / "run" / "checkpoints").glob("step-??????"))[-1:]
    files = sorted(path for step in newest for path in step.iterdir())
    if files:
        damage(rng, rng.choice(files))


def damaged_log(rng: random.Random, folder: Path) -> None:
    log = folder / "run" / "log.jsonl"
    if log.is_file():
        damage(rng, log)


def damage(rng: random.Random, file: Path) -> None:
    content = file.read_bytes()
    half = len(content) // 2
    rng.choice((file.unlink, lambda: file.write_bytes(content[:half]),
                lambda: file.write_bytes(content[:half] + bytes(len(content) - half))))()


def replaced_base(rng: random.Random, folder: Path) -> None:
    """Tries to go on with another base; then the first one is there again."""
    (folder / BASE).write_bytes(b"another base")
    goes_on = any(map(is_whole, (folder / "run" / "checkpoints").glob("step-??????")))
    train(folder)
    if goes_on and "content of base" not in describe_end(folder):
        raise RuntimeError(f"a run went on with another base: {describe_end(folder)}")
    if not goes_on:  # the other base began a run of its own
        shutil.rmtree(folder)
        folder.mkdir()
    (folder / BASE).write_bytes(b"the base")


def is_whole(checkpoint: Path) -> bool:
    try:
        return bool(read_state(checkpoint))
    except (ValueError, FileNotFoundError):
        return False


def full_disk(rng: random.Random, folder: Path) -> None:
    """A run whose files cannot grow beyond a few bytes."""
    train(folder, largest=rng.choice(SIZES))


MISHAPS: tuple[Callable[[random.Random, Path], None], ...] = (
    nothing_else, damaged_checkpoint, damaged_checkpoint, damaged_log, replaced_base, full_disk)


def train(folder: Path, kill_after: float | None = None, largest: int | None = None) -> None:
    """Starts or resumes the run of a folder in a process of its own, which may be killed after some seconds."""
    child = os.fork()
    if child == 0:
        run_here(folder, largest)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run_here(folder: Path, largest: int | None) -> None:
    """In the child: runs to the end, and writes what was raised into a file of the folder."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        (folder / ERROR).unlink(missing_ok=True)
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        paths = run_paths(folder, folder.parent)  # the file of weights names its data
        fitted(adapter(paths, steps=STEPS, base=folder / BASE))
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / ERROR).write_text(f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


def describe_end(folder: Path) -> str:
    """How a run ended: the digest of the weights, or the error."""
    error = folder / ERROR
    weights = run_paths(folder, folder.parent)["weights"]
    if error.is_file():
        return error.read_text()
    return compute_file_digest(weights) if weights.is_file() else "no weights"
