"""Steps of random sequences: what a person changes on a graph from one run to the next, and smaller sequences.

A step is a dict that JSON knows, of the fields that differ from a plain run.
"""
from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from typing import Any

from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.tests.mditface.test_cache_properties import OPERATIONS

Step = dict[str, Any]
LONGEST = 6  # steps of a sequence
MOST_CALLS = 120  # of layers until a run breaks off
RARE = 0.25  # how often what takes long is drawn, compared with others
SLOW = ("weights", "control", "devices", "merge")
STRENGTHS = (1.0, 0.5, 2.0, 0.0)
LORAS = (0.0, 0.5, 0.9)
GRAPHS = ("", *(name for name in OPERATIONS if not name.startswith(("hook", "set area"))), "set area share")
FIELDS: dict[str, tuple] = {  # the first value is that of a plain run
    "prompt": (0, 1, 2),
    "guidance": (None, 1.5),
    "negative": ("", "same mask", "other mask"),
    "seed": (0, 1),
    "size": (0, 1, 2),
    "batch": (1, 2),
    "labels": (0, 1, 2),
    "maps": (1, 2),
    "hidden": (False, True),
    "reduction": tuple(REDUCTIONS),
    "strength": STRENGTHS,
    "range": ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0)),
    "cfg": (2.0, 1.0),
    "mode": ("auto", "8-bit"),
    "offload": (False, True),
    "graph": GRAPHS,
    "hook": ((), (0.7, {}), (1.0, {"0.0": 0.3, "0.5": 1.0})),
    "reference": (0, 1, 2),
    "control": (0.0, 0.8),
    "exemplar": (0, 1, 2),
    "weights": ("float32", "bf16", "fp8", "quantised"),
    "early_lora": LORAS,
    "adapter_weight": (1.0, 0.4),
    "second": ("", "same mask", "other mask"),
    "lora": LORAS,
    "bypass": LORAS,
    "merge": (1.0, 0.5, 0.3),
    "object": (False, True),
    "rope": (1.0, 2.0),
    "dtype": ("float32", "bfloat16"),
    "wrapper": ("", "other prompt", "row by row"),
    "devices": (1, 2),
    "event": ("", "evict", "unload", "evict in the run", "unload in the run", "clone", "rebuild", "forget", "interrupt",
              "out of memory"),
}
BREAKS = ("interrupt", "out of memory")
PLAIN = {name: values[0] for name, values in FIELDS.items()} | {"calls": 0}


def draw_steps(rng: random.Random, without: Collection[str]) -> list[Step]:
    """A sequence in which each step changes an earlier one a little, so that many things come back."""
    names = [name for name in FIELDS if name not in without]
    steps = [change_step(rng, {}, names)]
    while len(steps) < rng.randint(2, LONGEST):
        steps.append(change_step(rng, rng.choice(steps), names))
    return steps


def change_step(rng: random.Random, step: Step, names: list[str]) -> Step:
    """A copy with one to three fields drawn anew. What happened before a run does not happen again."""
    changed = {name: value for name, value in step.items() if name not in ("event", "calls")}
    for name in rng.sample(names, rng.randint(1, 3)):
        if name not in SLOW or name in step or rng.random() < RARE:
            changed[name] = rng.choice(FIELDS[name])
    if changed.get("event") in BREAKS:
        changed["calls"] = rng.randrange(MOST_CALLS)
    return {name: value for name, value in changed.items() if value != PLAIN[name]}


def shrink(steps: list[Step], fails) -> list[Step]:
    """The sequence without the steps and fields that it does not need to fail. fails: whether a sequence does."""
    for i in reversed(range(len(steps))):
        smaller = steps[:i] + steps[i + 1:]
        if fails(smaller):
            steps = smaller
    for i, name in list_fields(steps):
        smaller = [*steps]
        smaller[i] = {field: value for field, value in steps[i].items() if field != name}
        if fails(smaller):
            steps = smaller
    return steps


def list_fields(steps: list[Step]) -> Iterator[tuple[int, str]]:
    for i, step in enumerate(steps):
        for name in list(step):
            yield i, name
