"""Random graphs of conditioning operations: never a stale result, never a leak."""
import gc
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management
from comfy_extras.nodes_hooks import PairConditioningSetProperties
from mditface.mdit.mditface import cache
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import (
    CPU, OFF, TOLERANCE, hooked, masked, references, reservations, run, with_bypass_lora, with_lora)
from nodes import NODE_CLASS_MAPPINGS


def node(name: str, *inputs):
    """First output of a node of the host."""
    return getattr(NODE_CLASS_MAPPINGS[name](), NODE_CLASS_MAPPINGS[name].FUNCTION)(*inputs)[0]


HALF_PLANE = torch.zeros(1, 16, 16)
HALF_PLANE[:, :, 8:] = 1
# name: (conditioning, text without a mask) -> conditioning
OPERATIONS = {
    "combine": lambda cond, text: node("ConditioningCombine", cond, text),
    "combine, mask second": lambda cond, text: node("ConditioningCombine", text, cond),
    "timestep range": lambda cond, text: node("ConditioningSetTimestepRange", cond, 0.0, 0.7),
    "zero out": lambda cond, text: node("ConditioningZeroOut", cond),
    "set mask": lambda cond, text: node("ConditioningSetMask", cond, HALF_PLANE, "default", 0.8),
    "set mask, its bounds": lambda cond, text: node("ConditioningSetMask", cond, HALF_PLANE, "mask bounds", 1.0),
    "set area": lambda cond, text: node("ConditioningSetArea", cond, 64, 96, 64, 8, 1.0),
    "set area share": lambda cond, text: node("ConditioningSetAreaPercentage", cond, 0.5, 0.6, 0.1, 0.3, 1.0),
    "average": lambda cond, text: node("ConditioningAverage", cond, text, 0.4),
    "concat": lambda cond, text: node("ConditioningConcat", cond, text),
    "hook": lambda cond, text: hooked(cond, 0.7),
    "hook with keyframes": lambda cond, text: hooked(cond, 1.0, {0.0: 0.3, 0.5: 1.0}),
    "pair properties": lambda cond, text: PairConditioningSetProperties().set_properties(cond, text, 0.9, "default")[0],
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_the_reference_survives(loaded, texts, operation):
    mask = tiny.mask()
    positive = operation(masked(texts[0], mask), texts[1])
    assert [reference.mask for reference in references(positive)] == [mask]
    out, report = run(loaded.model, positive, texts[1])
    assert report.passes > 0
    fresh = operation(masked(texts[0], tiny.mask()), texts[1])
    torch.testing.assert_close(out, run(loaded.model, fresh, texts[1], OFF)[0], **TOLERANCE)


graphs = st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=3)
states = st.tuples(st.sampled_from([None, with_lora, with_bypass_lora]), st.sampled_from([0.4, 0.9]))
steps = st.fixed_dictionaries({
    "positive": graphs, "negative": st.none() | graphs, "state": states, "strength": st.sampled_from([1.0, 0.5, 2.0]),
    "size": st.sampled_from([(1, 16, 16), (2, 16, 16), (4, 16, 16), (1, 13, 18), (2, 20, 12)]),
    "seed": st.integers(0, 3),
})


def conditioning(graph, text, other, mask, strength):
    cond = masked(text, mask, strength)
    for name in graph:
        cond = OPERATIONS[name](cond, other)
    return cond


def result(loaded, texts, step, mask, options):
    make, weight = step["state"]
    model = loaded.model if make is None else make(loaded.model, weight)
    positive = conditioning(step["positive"], *texts, mask, step["strength"])
    negative = texts[1]
    if step["negative"] is not None:
        negative = conditioning(step["negative"], *reversed(texts), mask, 1.0)
    batch, height, width = step["size"]
    return run(model, positive, negative, options, latent=(batch, 3, height, width), seed=step["seed"])[0]


@settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(runs=st.lists(steps, min_size=1, max_size=3), capacity=st.integers(1, 3), maps=st.sampled_from([1, 1, 2]),
       reduction=st.sampled_from(list(REDUCTIONS)), offload=st.booleans())
def test_never_stale_never_leaking(loaded, runs, capacity, maps, reduction, offload):
    texts = tiny.conditioning(loaded.clip, "man, red hair"), tiny.conditioning(loaded.clip, "")
    mask = tiny.mask(maps, reduction=reduction)
    held = weakref.ref(mask.store.get_cache(CPU))
    listed = len(comfy.model_management.current_loaded_models)
    with mock.patch.object(cache, "CAPACITY", capacity), reservations() as reserved:
        for step in runs:
            if maps == 2:
                step = {**step, "size": (2, *step["size"][1:])}
            out = result(loaded, texts, step, mask, CacheOptions(offload=offload))
            exact = result(loaded, texts, step, tiny.mask(maps, reduction=reduction), OFF)
            torch.testing.assert_close(out, exact, **TOLERANCE)
            assert len(mask.store.get_cache(CPU).entries) <= max(capacity, *(entries for entries, _ in reserved))
            assert mask.store.get_cache(CPU).planned == 0
    del mask
    gc.collect()
    assert held() is None
    names = [type(m.real_model()).__name__ for m in comfy.model_management.current_loaded_models]
    assert "StaticMaskCache" not in names and len(names) <= max(listed, 1)
