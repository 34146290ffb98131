"""Random runs with exemplars: never a stale result, never a leak; and what the cache's key tells apart."""
import gc
import weakref
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.mditface import cache, host
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import CPU, OFF, TOLERANCE, hooked, reservations, run, with_bypass_lora, with_lora
from mditface.tests.mditface.test_cache_properties import OPERATIONS
from mditface.tests.mditface.test_exemplar import READING, exemplified


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    cfg = tiny.config(**READING)
    return host.load_mdit(tiny.write(tmp_path_factory.mktemp("model") / "reading.safetensors", cfg))


def given_texts(reader):
    return tiny.conditioning(reader.clip, "man, red hair"), tiny.conditioning(reader.clip, "")


STATES = [None, with_lora, with_bypass_lora]
graphs = st.lists(st.sampled_from(["combine", "set area", "set area share", "set mask", "hook", "timestep range"]),
                  max_size=2)
steps = st.fixed_dictionaries({
    "graph": graphs, "negative": st.booleans(), "state": st.sampled_from(STATES),
    "mask": st.integers(0, 1), "exemplar": st.integers(0, 1), "strength": st.sampled_from([1.0, 0.5, 0.0]),
    "size": st.sampled_from([(1, 16, 16), (2, 16, 16), (1, 13, 18), (2, 20, 12)]), "seed": st.integers(0, 3),
})


def result(reader, texts, step, mask, exemplar, options):
    model = reader.model if step["state"] is None else step["state"](reader.model, 0.7)
    positive = exemplified(texts[0], mask, exemplar, step["strength"])
    for name in step["graph"]:
        positive = OPERATIONS[name](positive, texts[1])
    negative = exemplified(texts[1], mask, exemplar) if step["negative"] else texts[1]
    batch, height, width = step["size"]
    return run(model, positive, negative, options, latent=(batch, 3, height, width), seed=step["seed"])[0]


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(runs=st.lists(steps, min_size=1, max_size=3), capacity=st.integers(1, 3), pictures=st.sampled_from([1, 1, 2]),
       reduction=st.sampled_from(list(REDUCTIONS)), offload=st.booleans())
def test_never_stale_never_leaking(reader, runs, capacity, pictures, reduction, offload):
    texts = given_texts(reader)
    masks = [tiny.mask(seed=seed, reduction=reduction) for seed in (0, 1)]
    exemplars = [tiny.exemplar(pictures, seed) for seed in (0, 1)]
    held = [weakref.ref(exemplar.store.get_cache(CPU)) for exemplar in exemplars]
    with mock.patch.object(cache, "CAPACITY", capacity), reservations() as reserved:
        for step in runs:
            if pictures == 2:
                step = {**step, "size": (2, *step["size"][1:])}
            out = result(reader, texts, step, masks[step["mask"]], exemplars[step["exemplar"]],
                         CacheOptions(offload=offload))
            fresh = tiny.mask(seed=step["mask"], reduction=reduction), tiny.exemplar(pictures, step["exemplar"])
            torch.testing.assert_close(out, result(reader, texts, step, *fresh, OFF), **TOLERANCE)
            for exemplar in exemplars:
                most = max(entries for entries, _ in reserved)
                assert len(exemplar.store.get_cache(CPU).entries) <= max(capacity, most)
                assert exemplar.store.get_cache(CPU).planned == 0
    del masks, exemplars, exemplar
    gc.collect()
    assert [reference() for reference in held] == [None, None]


CHANGES = {
    "another picture": dict(pictures=1), "another map": dict(labels=1), "another target": dict(mask=1),
    "another model": dict(state=True), "another size": dict(size=20), "other options": dict(options="8-bit"),
    "a hook": dict(hook=True), "nothing": {},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_everything_that_enters_is_in_the_key(reader, change):
    """A second run that differs in one thing takes a pass of its own; the same run again takes none."""
    texts = given_texts(reader)
    exemplar, entries = tiny.exemplar(), []
    store = exemplar.store
    for changed in ({}, change):
        other = tiny.exemplar(seed=changed.get("pictures", 0))
        other.labels = tiny.labels(seed=7 + changed.get("labels", 0))
        other.store = store  # as if one exemplar had been edited in place
        positive = exemplified(texts[0], tiny.mask(seed=changed.get("mask", 0)), other)
        positive = hooked(positive, 0.7) if "hook" in changed else positive
        model = with_lora(reader.model, 0.7) if "state" in changed else reader.model
        side = changed.get("size", 16)
        run(model, positive, texts[1], CacheOptions(changed.get("options", "auto")), latent=(1, 3, side, side), steps=1)
        entries.append(set(store.get_cache(CPU).entries))
    assert len(entries[1] - entries[0]) == (1 if change else 0)


def test_strength_time_and_text_share_an_entry(reader):
    texts, mask, exemplar = given_texts(reader), tiny.mask(), tiny.exemplar()
    for strength, text, batch in ((1.0, texts[0], 1), (0.5, texts[1], 1), (2.0, texts[0], 3)):
        run(reader.model, exemplified(text, mask, exemplar, strength), texts[1], latent=(batch, 3, 16, 16), seed=batch)
    assert len(exemplar.store.get_cache(CPU).entries) == 1
