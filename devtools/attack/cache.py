"""Looks for stale results of the static cache: random sequences of changed runs, each compared with a run whose model,
mask and hooks are made anew and which stores nothing.

A run is wrong whose result differs from the fresh one, that raises what the fresh one does not, or that keeps room in
a cache after its end. So is a sequence whose caches outlive their masks.
"""
from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import random
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import comfy.model_management
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_hooks
from mditface.mdit.mditface.cache import RunReport, StaticMaskCache
from mditface.mdit.mditface.mask import MaskSource
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.adapter.bases import noisy
from mditface.tests.mditface import runs, tiny
from mditface.tests.mditface.test_cache_properties import OPERATIONS
from node_helpers import conditioning_set_values

from .steps import BREAKS, PLAIN, Step, draw_steps, shrink
from .subjects import SUBJECTS, Conditioning, Subject, add_control, show_classes

TOLERANCE = 2e-6  # the contract of the cache, of numbers up to 1
NEGATIVE = 3  # number of the negative prompt
ERRORS = {"interrupt": comfy.model_management.InterruptProcessingException,
          "out of memory": comfy.model_management.OOM_EXCEPTION}


class Wrong(Exception):
    """What is wrong with a run."""


class Broken(Exception):
    """The run was broken off, as the step demands."""


class Graph:
    """What a person keeps from one run to the next: models, masks, exemplars and hooks.

    report: counts of all runs.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        self.kept: dict[tuple, Any] = {}
        self.report = RunReport()

    def keep(self, kind: str, *values, make: Callable[..., Any]) -> Any:
        """What `make` makes of the values, once."""
        key = kind, json.dumps(values)
        if key not in self.kept:
            self.kept[key] = make(*values)
        return self.kept[key]

    def forget(self, *kinds: str) -> None:
        self.kept = {key: value for key, value in self.kept.items() if key[0] not in kinds}

    def list_caches(self) -> list[StaticMaskCache]:
        sources = [value for (kind, _), value in self.kept.items() if kind in ("mask", "exemplar")]
        return [cache for source in sources for cache in source.store.caches.values()]

    def find_mask(self, step: Step, other: int = 0) -> MaskSource:
        """The mask of a step, or another one that differs in its labels."""
        return self.keep("mask", step["labels"] + other, step["maps"], step["hidden"], step["reduction"],
                         make=lambda labels, maps, hidden, reduction: self.subject.make_mask(
                             tiny.labels(maps, seed=labels), show_classes(hidden), reduction))

    def find_model(self, step: Step):
        state = {name: step[name] for name in MODEL_FIELDS}
        return self.keep("model", state, make=self.subject.build)

    def make_positive(self, step: Step) -> Conditioning:
        text = self.subject.make_text(step["prompt"], step)
        cond = self.subject.add_masks(text, step, lambda other: self.find_mask(step, other))
        if step["exemplar"]:
            cond = self.add_exemplar(cond, step["exemplar"])
        if step["graph"]:
            cond = OPERATIONS[step["graph"]](cond, self.subject.make_text(NEGATIVE, step))
        if step["hook"]:
            cond = self.add_hook(cond, *step["hook"])
        if step["reference"]:
            cond = conditioning_set_values(cond, {"reference_latents": [noisy(1, 8, 4 * step["reference"])]})
        return cond

    def add_exemplar(self, cond: Conditioning, seed: int) -> Conditioning:
        exemplar = self.keep("exemplar", seed, make=lambda seed: tiny.exemplar(seed=seed))
        return [[text, {key: value.with_exemplar(exemplar, 1.0) if key == runs.CONDITIONING_KEY else value
                        for key, value in values.items()}] for text, values in cond]

    def add_hook(self, cond: Conditioning, strength: float, keyframes: dict[str, float]) -> Conditioning:
        frames = {float(start): mult for start, mult in keyframes.items()}
        hooks = self.keep("hook", strength, keyframes, make=lambda *_: runs.make_hooks(strength, frames))
        return nodes_hooks.SetModelHooksOnCond().attach_hook(cond, hooks)[0]

    def make_negative(self, step: Step) -> Conditioning:
        text = self.subject.make_text(NEGATIVE, step)
        if not step["negative"]:
            return text
        return runs.masked(text, self.find_mask(step, step["negative"] == "other mask"))

    def sample(self, step: Step, options: CacheOptions) -> Tensor:
        """The latents of one run."""
        positive = self.make_positive(step)
        negative = self.make_negative(step)
        if step["control"]:
            positive, negative = add_control(self.subject, positive, negative)
        batch = max(step["batch"], step["maps"])
        latent = (batch, self.subject.channels, *self.subject.sides[step["size"]])
        model = self.prepare(step)
        out, report = runs.run(model, positive, negative, options, latent=latent, seed=step["seed"], cfg=step["cfg"])
        self.report.passes += report.passes
        self.report.hits += report.hits
        return out

    def prepare(self, step: Step):
        """The model of a step, after what happens before the run."""
        event = step["event"]
        if event in BEFORE:
            BEFORE[event](self)
        model = self.find_model(step)
        if event == "clone" or event in WITHIN:
            model = model.clone()
        if event in WITHIN:
            model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "each step", call_before(WITHIN[event], self))
        return model


MODEL_FIELDS = ("weights", "early_lora", "adapter_weight", "second", "lora", "bypass", "merge", "object", "rope",
                "dtype", "wrapper", "devices")


def call_before(event: Callable[[Graph], None], graph: Graph):
    def wrapper(executor, *args, **kwargs):
        event(graph)
        return executor(*args, **kwargs)
    return wrapper


def evict(graph: Graph) -> None:
    for cache in graph.list_caches():
        cache.entries.clear()


def unload_entries(graph: Graph) -> None:
    """What the host does when it needs memory."""
    for (kind, _), source in graph.kept.items():
        if kind in ("mask", "exemplar"):
            for patcher in source.store.patchers.values():
                patcher.detach(True)


BEFORE: dict[str, Callable[[Graph], None]] = {  # the run of a step
    "evict": evict,
    "unload": lambda graph: comfy.model_management.unload_all_models(),
    "rebuild": lambda graph: graph.forget("model"),
    "forget": lambda graph: graph.forget("mask", "exemplar"),
}
WITHIN = {"evict in the run": evict, "unload in the run": unload_entries}  # before each step of the sampler


@contextlib.contextmanager
def breaking(step: Step) -> Iterator[None]:
    """Inside, a linear layer that is called after many others ends the run, where the step demands it."""
    if step["event"] not in BREAKS:
        yield
        return
    calls = itertools.count()
    linear = torch.nn.functional.linear

    def fail_late(*args, **kwargs):
        if next(calls) == step["calls"]:
            raise ERRORS[step["event"]]("as demanded")
        return linear(*args, **kwargs)
    with mock.patch.object(torch.nn.functional, "linear", fail_late):
        yield


def try_step(graph: Graph, step: Step) -> None:
    """Runs a step on a graph and on a new one. Raises Wrong, or Broken where nothing can be compared."""
    step = PLAIN | step
    options = CacheOptions(step["mode"], step["offload"])
    with breaking(step):
        found = end_run(graph, step, options)
    check_rest(graph)
    if isinstance(found, str) and found.startswith(tuple(kind.__name__ for kind in ERRORS.values())):
        raise Broken(found)
    fresh = CacheOptions("off") if step["mode"] == "auto" else options
    compare(found, end_run(Graph(graph.subject), step | {"event": "", "offload": False}, fresh))


def end_run(graph: Graph, step: Step, options: CacheOptions) -> Tensor | str:
    """The latents of a run, or its error in words."""
    try:
        return graph.sample(step, options)
    except (Exception, *ERRORS.values()) as error:  # an interrupt is no Exception
        return f"{type(error).__name__}: {error}"


def check_rest(graph: Graph) -> None:
    """After a run no cache keeps room for it."""
    for cache in graph.list_caches():
        if cache.planned or cache.needed or cache.wanted:
            raise Wrong(f"a cache still plans {cache.planned} bytes and {cache.needed} entries")


def compare(found: Tensor | str, expected: Tensor | str) -> None:
    """Raises Wrong for results that differ, and Broken for two equal errors."""
    if isinstance(found, str) or isinstance(expected, str):
        if str(found) != str(expected):
            raise Wrong(f"ended with {str(found)[:300]} instead of {str(expected)[:300]}")
        raise Broken(found)
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=limit, equal_nan=True):
        raise Wrong(f"differs by {float((found - expected).abs().max()):.1e}, allowed are {limit:.1e}")


@torch.inference_mode()
def run_sequence(subject: Subject, steps: list[Step], counts: Counter) -> str | None:
    """What is wrong with a sequence, None if nothing is. counts: grows by what its runs did."""
    graph = Graph(subject)
    with mock.patch.object(runs, "MASK_LORA", subject.lora):
        for i, step in enumerate(steps):
            try:
                counts["runs"] += 1
                try_step(graph, step)
            except Broken as broken:
                counts[f"ended with {str(broken)[:80]}"] += 1
            except Wrong as wrong:
                return f"run {i + 1}: {wrong}"
    counts.update({"static passes": graph.report.passes, "cache hits": graph.report.hits})
    return find_leak(graph)


def find_leak(graph: Graph) -> str | None:
    """What outlives a graph's masks."""
    held = [weakref.ref(cache) for cache in graph.list_caches()]
    graph.kept.clear()
    gc.collect()
    left = sum(cache() is not None for cache in held)
    return f"{left} caches outlive their masks" if left else None


def attack_cache(seconds: float, seed: int = 0, names: Sequence[str] = tuple(SUBJECTS), most: int = 10 ** 9) -> dict:
    """Runs random sequences until the time is over, or after `most` of them; prints each wrong one, shrunk.

    names: of the subjects. Returns how many runs were tried, the wrong sequences, and counts of what the runs did.
    """
    torch.set_num_threads(1)
    counts: Counter = Counter()
    wrong = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        make_subject = functools.cache(lambda name: SUBJECTS[name](Path(folder, name)))
        for number in range(most):
            if time.monotonic() > end:
                break
            rng = random.Random(f"{seed} {number}")
            name = rng.choice(names)
            subject = make_subject(name)
            gc.freeze()  # what stays would make each search for leaks slow
            steps = draw_steps(rng, subject.without)
            counts[name] += 1
            if found := run_sequence(subject, steps, counts):
                wrong.append(report_wrong(subject, name, steps, found))
    return {"tried": counts.pop("runs"), "wrong": wrong, "counts": dict(counts)}


def report_wrong(subject: Subject, name: str, steps: list[Step], found: str) -> dict:
    """A wrong sequence as small as it can be, printed. One that is right when it runs again stays as it is."""
    smallest = shrink(steps, lambda smaller: run_sequence(subject, smaller, Counter()) is not None)
    wrong = {"sequence": [name, smallest], "wrong": found, "again": run_sequence(subject, smallest, Counter())}
    print(f"{found}; again: {wrong['again']}: --sequence '{json.dumps(wrong['sequence'])}'", flush=True)
    return wrong


def repeat_sequence(text: str) -> dict:
    """Runs a sequence again that `attack_cache` printed."""
    name, steps = json.loads(text)
    counts: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        wrong = run_sequence(SUBJECTS[name](Path(folder, name)), steps, counts)
    return {"tried": counts.pop("runs"), "wrong": [wrong] if wrong else [], "counts": dict(counts)}
