"""Feeds every reader mutants of its files and values, each in a process of its own, and counts what escapes.

A mutant escapes that ends in anything but a result, or a ValueError or FileNotFoundError with its name; that takes
more than 2 seconds of processor time or 500 MB; or that touches other files or runs code.
"""
from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from .readers import READERS
from .trial import attempt

FOLDER = "mutant-folder"


def attack_files(seconds: float, names: Sequence[str] = tuple(READERS), start: int = 0, most: int = 10 ** 9) -> dict:
    """Attacks readers in turn, until the time is over or each was attacked `most` times; prints each escape.

    start: the number of the first mutant: the same number makes the same mutant again.
    Returns the number of attempts of each reader, and the escapes: reader, number of the mutant, and what is wrong.
    """
    torch.set_num_threads(1)
    tried: Counter = Counter()
    escapes = []
    end = time.monotonic() + seconds
    for name in names:
        warm_up(name)
    for number in range(start, start + most):
        for name in names:
            if time.monotonic() > end:
                return {"tried": dict(tried), "escapes": escapes}
            tried[name] += 1
            escapes += try_mutant(name, number)
    return {"tried": dict(tried), "escapes": escapes}


def warm_up(name: str) -> None:
    """Reads a valid file, so that no attempt pays for what is imported late. Some are valid for the format alone."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            READERS[name].valid(Path(folder))
        except ValueError as error:
            print(f"{name}: the file to start from is refused: {error}")


def try_mutant(name: str, number: int) -> list[dict]:
    """The escape of one mutant, if it is one."""
    folder = Path(tempfile.mkdtemp(), FOLDER)
    folder.mkdir()
    try:
        rng = random.Random(f"{name} {number}")
        torch.manual_seed(number)
        mutant = READERS[name].make(rng, folder)
        outcome = attempt(mutant.call, folder)
    finally:
        shutil.rmtree(folder.parent)
    name_in_words = FOLDER if mutant.name == str(folder) else mutant.name
    if wrong := outcome.find_escape(name_in_words):
        print(f"{name} {number}: {wrong}: {outcome.message[-600:]}")
        return [{"reader": name, "mutant": number, "wrong": wrong}]
    return []
