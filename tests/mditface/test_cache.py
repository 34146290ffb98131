"""The contract of the static cache (docs/design/mditface.md, section 6): exact, counted, never stale, never leaking."""
import copy
import gc
import pickle
import threading
import time
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.model_management
import comfy.samplers
from comfy.ldm.flux.math import apply_rope1
from comfy.model_management import InterruptProcessingException
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.cache import CAPACITY, RunReport, StaticEntry, StaticMaskCache
from mditface.mdit.mditface.entries import merge_entry
from mditface.mdit.mditface.mask import MaskInput, MaskReference
from mditface.mdit.mditface.reader import CacheOptions
from mditface.mdit.mditface.tokens import MaskTokens, find_flat_regions, merge_leaves
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import (
    CPU, OFF, SIDE, TOLERANCE, check_other_entry, hooked, masked, replaced, reporting, run, with_bypass_lora, with_lora)
from nodes import ConditioningSetArea, ConditioningSetTimestepRange

EXACT = CacheOptions()
EIGHT_BIT = CacheOptions("8-bit")


def distinct_labels(side: int = 32) -> torch.Tensor:
    """A map of 4 x 4 squares of 16 classes: no two neighbours are equal."""
    squares = torch.arange(16, dtype=torch.uint8).view(1, 4, 4)
    return squares.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)


def mask_of(labels, reduction="off") -> MaskInput:
    return MaskInput(labels, torch.ones(len(CLASSES)), reduction)


@pytest.fixture
def mask():
    return tiny.mask()


@pytest.fixture
def uncached(loaded, texts):
    """The exact result for a model and a function that makes the positive conditioning from a mask."""
    def result(model=loaded.model, positive=lambda mask: masked(texts[0], mask), **options):
        return run(model, positive(tiny.mask()), texts[1], OFF, **options)[0]
    return result


def test_cached_and_uncached_agree(loaded, texts, mask, uncached):
    expected = uncached(steps=3)
    for _ in range(2):
        out, _ = run(loaded.model, masked(texts[0], mask), texts[1], steps=3)
        torch.testing.assert_close(out, expected, **TOLERANCE)
    assert not torch.allclose(expected, run(loaded.model, *texts, steps=3)[0], atol=1e-3)


def test_the_switched_off_cache_computes_every_time_and_keeps_nothing(loaded, texts, mask):
    _, report = run(loaded.model, masked(texts[0], mask), texts[1], OFF, steps=3)
    assert (report.passes, report.hits, report.bytes) == (3, 0, 0)
    assert not mask.store.get_cache(CPU).entries


def test_one_pass_for_a_run_and_none_for_the_next(loaded, texts, mask):
    positive = masked(texts[0], mask)
    report = run(loaded.model, positive, texts[1], steps=3)[1]
    assert (report.passes, report.hits) == (1, 2)
    tokens = (SIDE // tiny.CONFIG.patch) ** 2
    assert report.bytes == 2 * tiny.CONFIG.depth * tokens * tiny.CONFIG.width * 4
    other_text = tiny.conditioning(loaded.clip, "man, red shirt")
    for changes in (dict(seed=7), dict(cfg=5.0), dict(steps=5), dict(cfg=1.0), dict(latent=(3, 3, SIDE, SIDE))):
        assert run(loaded.model, positive, texts[1], **changes)[1].passes == 0
        assert run(loaded.model, masked(other_text, mask), other_text, **changes)[1].passes == 0


def test_both_halves_share_one_pass(loaded, texts, mask):
    positive, negative = (masked(text, mask) for text in texts)
    assert run(loaded.model, positive, negative)[1].passes == 1


def test_a_pass_for_each_size_while_they_fit(loaded, texts, mask):
    assert CAPACITY == 2
    positive = masked(texts[0], mask)

    def passes(side):
        return run(loaded.model, positive, texts[1], latent=(1, 3, side, side))[1].passes
    assert [passes(side) for side in (16, 20, 16, 24, 16, 20, 24)] == [1, 1, 0, 1, 0, 1, 1]


def test_a_mask_of_half_the_resolution_merges_too(loaded, texts):
    flat = mask_of(torch.ones(1, 32, 32, dtype=torch.uint8), "half, merged")
    run(loaded.model, masked(texts[0], flat), texts[1], latent=(1, 3, 128, 128))
    (entry,) = flat.store.list_entries()
    assert entry[0][0].shape[2] == 64  # of 16 x 16 tokens, 2 x 2 each


def test_eight_bits_are_close_and_small(loaded, texts, mask):
    positive = masked(texts[0], mask)
    exact, report = run(loaded.model, positive, texts[1], EXACT)
    close, small = run(loaded.model, positive, texts[1], EIGHT_BIT)
    effect = (exact - run(loaded.model, *texts)[0]).abs().max()
    assert small.passes == 1
    assert 0 < (close - exact).abs().max() < 0.02 * effect
    eight_bit = small.bytes - report.bytes  # both entries are kept
    assert eight_bit < 0.35 * report.bytes


@pytest.mark.parametrize("offload", [False, True])
def test_the_host_counts_entries_unless_they_are_kept_in_ram(loaded, texts, mask, offload):
    run(loaded.model, masked(texts[0], mask), texts[1], CacheOptions(offload=not offload))
    run(loaded.model, masked(texts[0], mask), texts[1], CacheOptions(offload=offload))  # the entry is there already
    cache = mask.store.get_cache(loaded.model.load_device)
    (entry,) = cache.entries.values()
    assert entry.resident is not offload
    holder = mask.store.get_patcher(loaded.model.load_device, loaded.model.offload_device)
    cache.planned = 0
    assert holder.model_size() == (0 if offload else entry.nbytes)


def test_offloaded_entries_give_the_same_result(loaded, texts, mask, uncached):
    out, _ = run(loaded.model, masked(texts[0], mask), texts[1], CacheOptions(offload=True))
    torch.testing.assert_close(out, uncached(), **TOLERANCE)


def test_merging_single_tokens_changes_nothing(loaded, texts):
    exact = run(loaded.model, masked(texts[0], mask_of(distinct_labels())), texts[1])[0]
    merged = run(loaded.model, masked(texts[0], mask_of(distinct_labels(), "merge")), texts[1])[0]
    torch.testing.assert_close(merged, exact, **TOLERANCE)


def test_a_flat_maps_keys_become_one_for_each_leaf(loaded, texts):
    flat = mask_of(torch.ones(1, 32, 32, dtype=torch.uint8), "merge")
    run(loaded.model, masked(texts[0], flat), texts[1], latent=(1, 3, 64, 64))
    (entry,) = flat.store.list_entries()
    assert entry[0][0].shape[2] == 64  # of 16 x 16 tokens, 2 x 2 each
    torch.testing.assert_close(entry.bias, torch.full((1, 64), 4.0).log())


def test_merged_keys_are_as_long_as_the_keys_they_stand_for():
    """Equal keys at different positions differ by their rotation only, and so must their mean."""
    positions = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
    tokens = MaskTokens(torch.zeros(1, 256, 1), (16, 16), torch.arange(16.0), torch.arange(16.0), (16, 16),
                        torch.ones(1, 256, dtype=torch.int16))
    net = tiny.network()

    def rotation(positions):
        return net.encode_positions(positions, {})[1]
    key = torch.randn(1, 2, 1, 16, generator=torch.Generator().manual_seed(0))
    keys = apply_rope1(key.expand(-1, -1, 256, -1), rotation(positions))
    entry = merge_entry(iter([(keys, keys)]), tokens, rotation, eight_bit=False)
    leaves = find_flat_regions(tokens.classes, (16, 16))
    expected = apply_rope1(key.expand(-1, -1, 64, -1), rotation(merge_leaves(positions, leaves)))
    torch.testing.assert_close(entry[0][0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(entry[0][1], expected, atol=0.1)  # as a plain mean of the keys would be


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data(), h=st.integers(1, 40), w=st.integers(1, 40), maps=st.integers(1, 2))
def test_leaves_are_flat_rectangles_that_cover_the_grid(data, h, w, maps):
    seed, classes = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 4))
    blocks = torch.randint(-1, classes, (maps, -(-h // 5), -(-w // 5)), generator=torch.Generator().manual_seed(seed))
    grid = blocks.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, :h, :w]
    leaves = find_flat_regions(grid.flatten(1), (h, w))
    assert leaves.unique().tolist() == list(range(int(leaves.max()) + 1))
    side = max(1, min(h, w) // 8)
    for leaf in leaves.unique():
        rows, cols = (leaves.view(h, w) == leaf).nonzero().unbind(1)
        sides = [int(axis.max() - axis.min()) + 1 for axis in (rows, cols)]
        assert sides[0] * sides[1] == len(rows) and max(sides) <= side
        inside = grid[:, rows, cols]
        assert (inside == inside[:, :1]).all() and (len(rows) == 1 or (inside >= 0).all())


def test_a_flat_region_is_cut_into_few_leaves():
    assert find_flat_regions(torch.ones(1, 32 * 32, dtype=torch.int16), (32, 32)).max() + 1 == 64


def test_half_reduction_keeps_a_quarter_of_the_tokens(loaded, texts):
    half = tiny.mask(reduction="half")
    positive = masked(texts[0], half)
    out, report = run(loaded.model, positive, texts[1])
    assert report.bytes == 2 * tiny.CONFIG.depth * 4 * tiny.CONFIG.width * 4
    torch.testing.assert_close(out, run(loaded.model, positive, texts[1], OFF)[0], **TOLERANCE)


OBJECT = torch.nn.Linear(32, 96).requires_grad_(False)


def rescaled(model, factor: float):
    model = model.clone()
    model.set_model_rope_options(factor, 0, factor, 0, 1, 0)
    return model


def with_object(model):
    model = model.clone()
    model.add_object_patch("diffusion_model.blocks.0.msk.qkv", OBJECT)
    return model


def in_bfloat16(model):
    model = model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    return model


STATES = {
    "lora": lambda model: with_lora(model, 0.5),
    "lora, other strength": lambda model: with_lora(model, 0.9),
    "injected lora": lambda model: with_bypass_lora(model, 0.5),
    "object patch": with_object,
    "rope options": lambda model: rescaled(model, 2.0),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_another_model_state_is_another_entry(loaded, texts, mask, uncached, change):
    changed = change(loaded.model)
    check_other_entry(run, loaded.model, changed, masked(texts[0], mask), texts[1], uncached(changed), 1e-4)


def test_another_compute_type_is_another_entry(loaded, texts, mask):
    positive, changed = masked(texts[0], mask), in_bfloat16(loaded.model)
    base, _ = run(loaded.model, positive, texts[1])
    assert run(changed, positive, texts[1])[1].passes == 1
    assert run(loaded.model, positive, texts[1])[1].passes == 0


def test_hooks_with_keyframes_get_an_entry_for_each_strength(loaded, texts, mask):
    def positive(mask):
        return hooked(masked(texts[0], mask), 1.0, {0.0: 1.0, 0.5: 0.2})
    plain, _ = run(loaded.model, masked(texts[0], mask), texts[1], steps=4)
    out, report = run(loaded.model, positive(mask), texts[1], steps=4)
    assert (report.passes, report.hits) == (2, 2)
    torch.testing.assert_close(out, run(loaded.model, positive(tiny.mask()), texts[1], OFF, steps=4)[0], **TOLERANCE)
    assert not torch.allclose(out, plain, atol=1e-4)
    again, _ = run(loaded.model, masked(texts[0], mask), texts[1], steps=4)
    torch.testing.assert_close(again, plain, **TOLERANCE)


def test_a_region_is_another_entry(loaded, texts, mask, uncached):
    def positive(mask):
        return ConditioningSetArea().append(masked(texts[0], mask), 64, 64, 64, 0, 1.0)[0] + masked(texts[0], mask)
    run(loaded.model, masked(texts[0], mask), texts[1])
    out, report = run(loaded.model, positive(mask), texts[1])
    assert report.passes == 1
    torch.testing.assert_close(out, uncached(positive=positive), **TOLERANCE)


def test_a_timestep_range_reads_the_mask_only_there(loaded, texts, mask, uncached):
    def positive(mask):
        (early,) = ConditioningSetTimestepRange().set_range(masked(texts[0], mask), 0.0, 0.5)
        return early + ConditioningSetTimestepRange().set_range(texts[0], 0.5, 1.0)[0]
    out, report = run(loaded.model, positive(mask), texts[1], steps=4)
    assert 0 < report.passes + report.hits < 4
    torch.testing.assert_close(out, uncached(positive=positive, steps=4), **TOLERANCE)


def test_a_reference_reads_the_mask_between_start_and_end(loaded, texts, mask):
    report = run(loaded.model, masked(texts[0], mask, 1.0, 0.0, 0.4), texts[1], steps=5)[1]
    assert 0 < report.passes + report.hits < 5
    nowhere, report = run(loaded.model, masked(texts[0], mask, 0.0), texts[1])
    assert report.passes + report.hits == 0
    torch.testing.assert_close(nowhere, run(loaded.model, *texts)[0], **TOLERANCE)


def test_strength_does_not_touch_the_entry(loaded, texts, mask):
    full, _ = run(loaded.model, masked(texts[0], mask), texts[1])
    weak, report = run(loaded.model, masked(texts[0], mask, 1e-9), texts[1])
    assert report.passes == 0
    torch.testing.assert_close(weak, run(loaded.model, *texts)[0], rtol=0, atol=1e-4)
    strong, _ = run(loaded.model, masked(texts[0], mask, 2.0), texts[1])
    assert not torch.allclose(strong, full, atol=1e-4)


def test_later_edits_of_the_label_map_do_not_reach_the_mask(loaded, texts):
    labels = tiny.labels()
    mask = mask_of(labels)
    before, _ = run(loaded.model, masked(texts[0], mask), texts[1])
    labels.zero_()
    torch.testing.assert_close(run(loaded.model, masked(texts[0], mask), texts[1], OFF)[0], before, **TOLERANCE)


def interrupt(*_, **__):
    comfy.model_management.interrupt_current_processing()
    return None, torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)


def out_of_memory(*_, **__):
    raise comfy.model_management.OOM_EXCEPTION("simulated")


FAILURES = {"interrupt": (1, interrupt, InterruptProcessingException),
            "interrupt in the first block": (0, interrupt, InterruptProcessingException),
            "out of memory": (1, out_of_memory, comfy.model_management.OOM_EXCEPTION),
            "out of memory in the first block": (0, out_of_memory, comfy.model_management.OOM_EXCEPTION)}


@pytest.mark.parametrize("place, failure, error", FAILURES.values(), ids=FAILURES.keys())
def test_a_failed_pass_leaves_nothing(loaded, texts, mask, uncached, place, failure, error):
    block = loaded.model.model.diffusion_model.blocks[place]
    with replaced(block, "run_static", failure), pytest.raises(error):
        run(loaded.model, masked(texts[0], mask), texts[1])
    assert not mask.store.get_cache(CPU).entries
    assert mask.store.get_patcher(loaded.model.load_device, loaded.model.offload_device).model_size() == 0
    out, report = run(loaded.model, masked(texts[0], mask), texts[1])
    assert report.passes == 1
    torch.testing.assert_close(out, uncached(), **TOLERANCE)


def test_a_failed_pass_keeps_what_was_complete(loaded, texts, mask):
    positive = masked(texts[0], mask)
    run(loaded.model, positive, texts[1])
    with replaced(loaded.model.model.diffusion_model.blocks[1], "run_static", interrupt):
        with pytest.raises(InterruptProcessingException):
            run(loaded.model, positive, texts[1], latent=(1, 3, 20, 20))
    assert run(loaded.model, positive, texts[1])[1].passes == 0


def test_an_error_before_the_pass_takes_the_announced_bytes_back(loaded, texts, mask):
    wrong = tiny.mask(batch=2)
    with pytest.raises(ValueError, match="label maps"):
        run(loaded.model, masked(texts[0], mask) + masked(texts[0], wrong), texts[1], latent=(3, 3, SIDE, SIDE))
    assert mask.store.get_cache(CPU).planned == wrong.store.get_cache(CPU).planned == 0


def alive(reference) -> list:
    gc.collect()
    listed = [type(m.real_model()).__name__ for m in comfy.model_management.current_loaded_models]
    return [reference()] * (reference() is not None) + [name for name in listed if name == "StaticMaskCache"]


def test_the_cache_dies_with_its_conditionings(loaded, texts):
    mask = tiny.mask()
    cache, positive = weakref.ref(mask.store.get_cache(CPU)), masked(texts[0], mask)
    run(loaded.model, positive, texts[1])
    del mask
    assert cache() in alive(cache)
    del positive
    assert alive(cache) == []


def test_the_cache_dies_after_a_failed_run(loaded, texts):
    mask = tiny.mask()
    cache, positive = weakref.ref(mask.store.get_cache(CPU)), masked(texts[0], mask)
    with replaced(loaded.model.model.diffusion_model.blocks[1], "run_static", out_of_memory):
        with pytest.raises(comfy.model_management.OOM_EXCEPTION):
            run(loaded.model, positive, texts[1])
    del mask, positive
    assert alive(cache) == []


def test_entries_survive_unloading_of_all_models(loaded, texts, mask):
    positive = masked(texts[0], mask)
    before, _ = run(loaded.model, positive, texts[1])
    comfy.model_management.unload_all_models()
    assert comfy.model_management.current_loaded_models == []
    after, report = run(loaded.model, positive, texts[1])
    assert report.passes == 0
    torch.testing.assert_close(after, before, **TOLERANCE)


def test_the_host_lists_model_and_cache_together(loaded, texts, mask):
    comfy.model_management.unload_all_models()
    run(loaded.model, masked(texts[0], mask), texts[1])
    listed = {id(m.model.model): m for m in comfy.model_management.current_loaded_models}
    assert {id(loaded.model.model), id(mask.store.get_cache(CPU))} <= listed.keys()
    assert listed[id(mask.store.get_cache(CPU))].model_memory() == mask.store.get_cache(CPU).nbytes > 0


def test_copies_share_the_mask_and_pickles_leave_the_cache_behind(loaded, texts, mask):
    positive = masked(texts[0], mask, 0.5, 0.1, 0.9)
    out, _ = run(loaded.model, positive, texts[1])
    reference = MaskReference(mask, 0.5, 0.1, 0.9)
    assert copy.deepcopy(reference) is reference and copy.copy(reference) is reference
    assert copy.deepcopy(mask) is mask and copy.copy(mask) is mask
    twin = pickle.loads(pickle.dumps(reference))
    assert (twin.strength, twin.start, twin.end) == (0.5, 0.1, 0.9)
    assert not twin.mask.store.get_cache(CPU).entries
    again, report = run(loaded.model, masked(texts[0], twin.mask, 0.5, 0.1, 0.9), texts[1])
    assert report.passes == 1
    torch.testing.assert_close(again, out, **TOLERANCE)


@torch.inference_mode(False)
def test_with_gradients_the_mask_is_computed_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "in_training", True)  # the host's kernels have no gradients else
    loaded = host.load_mdit(tiny.write(tmp_path / "trained.safetensors"))
    weight = loaded.model.model.diffusion_model.blocks[0].msk.qkv.weight.requires_grad_(True)
    mask = mask_of(tiny.labels().clone())
    with torch.no_grad():
        texts = [tiny.conditioning(loaded.clip, text) for text in ("man", "")]

    def train(model, noise, sigmas, extra_args, callback, disable):
        with torch.enable_grad():
            for _ in range(2):
                model(noise, sigmas[:1], **extra_args).square().sum().backward()
        return noise
    model, report = reporting(loaded.model)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(masked(texts[0], mask), texts[1])
    guider.sample(torch.ones(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE), comfy.samplers.KSAMPLER(train),
                  torch.tensor([0.7, 0.0]))
    assert (report.passes, report.hits) == (2, 0)
    assert not mask.store.get_cache(CPU).entries
    assert weight.grad.abs().max() > 0


def test_two_threads_compute_an_entry_once():
    cache, computed, reports = StaticMaskCache(), [], [RunReport(), RunReport()]

    def compute():
        computed.append(1)
        time.sleep(0.05)
        return StaticEntry([(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))], None, False)
    threads = [threading.Thread(target=cache.get, args=("key", compute, report)) for report in reports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1
    assert sorted((report.passes, report.hits) for report in reports) == [(0, 1), (1, 0)]
