"""The memory holder of a cache, and entries that the host moved to RAM (docs/design/mditface.md, section 6.3)."""
import weakref
from types import SimpleNamespace

import pytest
import torch

import comfy.model_management
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_management import LoadedModel
from mditface.mdit.mditface import host
from mditface.mdit.mditface.attention import AttentionCall, MaskRows, ReadPattern, attend_masks
from mditface.mdit.mditface.cache import CAPACITY, CachePatcher, StaticEntry, StaticMaskCache, StaticStore
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import CPU, masked, run
from mditface.tests.mditface.test_cache import distinct_labels, mask_of
from mditface.tests.shared.reloading import OTHER
from nodes import ConditioningSetArea

CARD, RAM = torch.device("cuda", 0), CPU


@pytest.fixture
def on_card():
    """A cache of entries of 100, 50 and 20 bytes on a card that does not exist, all wanted, and its holder."""
    cache = StaticMaskCache()
    for name, size in (("old", 100), ("middle", 50), ("new", 20)):
        entry = SimpleNamespace(nbytes=size, stored_on=CARD, resident=True)
        entry.store_on = lambda device, entry=entry: setattr(entry, "stored_on", device)
        cache.entries[name] = entry
    cache.wanted = set(cache.entries)
    holder = CachePatcher(cache, CARD, RAM)
    listed = LoadedModel(holder)
    listed.real_model, listed.model_finalizer = weakref.ref(cache), weakref.finalize(cache, lambda: None)
    return SimpleNamespace(cache=cache, holder=holder, listed=listed,
                           places=lambda: [entry.stored_on for entry in cache.entries.values()])


def test_the_host_spills_the_oldest_entries_first(on_card):
    assert on_card.holder.model_size() == on_card.holder.loaded_size() == 170
    assert on_card.listed.model_unload(110) is False
    assert on_card.places() == [RAM, RAM, CARD]
    assert (on_card.holder.model_size(), on_card.holder.loaded_size()) == (170, 20)
    assert on_card.listed.model_unload(1e30) is True
    assert on_card.places() == [RAM, RAM, RAM]


@pytest.mark.parametrize("budget, moved, places", [
    (0.1, 0, [RAM, RAM, RAM]), (19, 0, [RAM, RAM, RAM]), (20, 20, [RAM, RAM, CARD]), (69, 20, [RAM, RAM, CARD]),
    (70, 70, [RAM, CARD, CARD]), (169, 70, [RAM, CARD, CARD]), (120, 70, [RAM, CARD, CARD]),
    (1e32, 170, [CARD, CARD, CARD]),
])
def test_a_budget_is_kept_and_the_last_used_entry_comes_first(on_card, budget, moved, places):
    on_card.holder.detach()
    assert on_card.listed.model_use_more_vram(budget) == moved
    assert on_card.places() == places


@pytest.mark.parametrize("budget, places", [(-1, [RAM, CARD, CARD]), (-100, [RAM, CARD, CARD]),
                                            (-101, [RAM, RAM, CARD]), (-1000, [RAM, RAM, RAM])])
def test_a_negative_budget_takes_memory_back(on_card, budget, places):
    assert on_card.listed.model_use_more_vram(budget) == 0
    assert on_card.places() == places


def test_entries_that_a_run_does_not_use_are_neither_counted_nor_loaded(on_card):
    on_card.holder.detach()
    on_card.cache.wanted.clear()
    with on_card.cache.reserve(1, 7, ["old"]):
        assert (on_card.holder.model_size(), on_card.holder.loaded_size()) == (107, 0)
        on_card.holder.partially_load(CARD, 1e30)
        assert [*on_card.cache.entries] == ["middle", "new", "old"]
        assert on_card.places() == [RAM, RAM, CARD]
    assert on_card.holder.model_size() == on_card.holder.loaded_size() == 100


def test_what_a_run_does_not_use_leaves_the_card_first(on_card):
    with on_card.cache.reserve(1, 0, ["old"]):
        on_card.listed.model_unload(60)
        assert [*zip(on_card.cache.entries, on_card.places())] == [("middle", RAM), ("new", RAM), ("old", CARD)]


def test_a_reload_keeps_the_entries_where_they_are(on_card):
    on_card.holder.detach(unpatch_all=False)
    assert on_card.places() == [CARD, CARD, CARD]
    on_card.holder.detach()
    assert on_card.places() == [RAM, RAM, RAM]
    assert list(on_card.cache.entries) == ["old", "middle", "new"]


def test_announced_bytes_count_but_are_not_loaded(on_card):
    on_card.cache.planned = 1000
    assert (on_card.holder.model_size(), on_card.holder.loaded_size()) == (1170, 170)
    assert not on_card.holder.is_dynamic()


def test_entries_that_the_user_keeps_in_ram_are_not_the_hosts_to_load(on_card):
    entry = on_card.cache.entries["middle"]
    entry.stored_on, entry.resident = RAM, False
    assert on_card.holder.model_size() == on_card.holder.loaded_size() == 120
    on_card.holder.partially_load(CARD, 1e30)
    assert on_card.places() == [CARD, RAM, CARD]


def test_each_device_has_a_cache_of_its_own():
    """The host lists one of several patchers of one model: the entries of the others could not be unloaded."""
    store, other = StaticStore(), torch.device("cuda", 1)
    holders = [store.get_patcher(device, RAM) for device in (CARD, other)]
    assert not holders[0].is_clone(holders[1]) and store.get_patcher(CARD, RAM) is holders[0]
    for holder, size in zip(holders, (5, 7)):
        entry = SimpleNamespace(nbytes=size, stored_on=holder.load_device, resident=True)
        store.get_cache(holder.load_device).entries["key"] = entry
    assert [holder.loaded_size() for holder in holders] == [5, 7]
    assert [entry.nbytes for entry in store.list_entries()] == [5, 7]


def test_a_run_on_two_devices_computes_and_announces_for_each(tmp_path, texts):
    """The host's multi-GPU: each half of guidance on a device of its own, in a thread of its own."""
    model = host.load_mdit(tiny.write(tmp_path / "two.safetensors")).model
    alone, mask = tiny.mask(), tiny.mask()
    positive, negative = masked(texts[0], mask), masked(texts[1], mask)
    expected, _ = run(model, masked(texts[0], alone), masked(texts[1], alone))
    model = model.clone()
    copy = model.deepclone_multigpu(new_load_device=OTHER)
    copy.is_multigpu_base_clone = True
    model.set_additional_models("multigpu", [copy])
    out, report = run(model, positive, negative)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)  # the halves of a batch are calls of their own
    assert (report.passes, report.hits) == (2, 2)
    assert [len(mask.store.get_cache(device).entries) for device in (CPU, OTHER)] == [1, 1]
    listed = {id(m.model.model) for m in comfy.model_management.current_loaded_models}
    assert {id(cache) for cache in mask.store.caches.values()} <= listed


def test_a_later_run_drops_what_only_an_earlier_one_needed(loaded, texts):
    mask = mask_of(distinct_labels())

    def areas(*tops):
        return [ConditioningSetArea().append(masked(texts[0], mask), 128, 32, 0, top, 1.0)[0][0] for top in tops]
    assert run(loaded.model, areas(0, 32, 64, 96), texts[1])[1].passes == 4
    assert run(loaded.model, areas(0, 32, 64, 96), texts[1])[1].passes == 0
    report = run(loaded.model, areas(96), texts[1])[1]
    assert (report.passes, len(mask.store.list_entries())) == (0, CAPACITY)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_next_block_is_on_its_way_while_one_is_in_use(monkeypatch, eight_bit):
    kv = [(torch.full((1, 1, 2, 4), i + 1.0), torch.full((1, 1, 2, 4), -i - 1.0)) for i in range(3)]
    entry, fetched, fetch = StaticEntry(kv, None, eight_bit), [], StaticEntry.fetch

    def record(self, i):
        fetched.append(i)
        return fetch(self, i)
    monkeypatch.setattr(StaticEntry, "fetch", record)
    monkeypatch.setattr(StaticEntry, "stored_on", torch.device("meta"))
    for i, expected in enumerate(([0, 1], [0, 1, 2], [0, 1, 2])):
        assert len(entry.fetched) <= 2
        for found, stored in zip(entry[i], kv[i]):
            torch.testing.assert_close(found, stored)
        assert fetched == expected
    torch.testing.assert_close(entry[1][0], kv[1][0])
    torch.testing.assert_close(entry[0][0], kv[0][0])  # out of order, too


@pytest.mark.parametrize("eight_bit, tensors", [(False, 2), (True, 4)])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_groups_of_rows_share_what_is_fetched_of_a_spilled_entry(monkeypatch, groups, eight_bit, tensors):
    """The copies to the device do not grow with the groups that read a block."""
    kv = [(torch.full((1, 1, 2, 4), i + 1.0), torch.full((1, 1, 2, 4), -i - 1.0)) for i in range(19)]
    entry, copies, cast_to = StaticEntry(kv, None, eight_bit), [], comfy.model_management.cast_to

    def count(*args, **kwargs):
        copies.append(1)
        return cast_to(*args, **kwargs)
    monkeypatch.setattr(comfy.model_management, "cast_to", count)
    monkeypatch.setattr(StaticEntry, "stored_on", torch.device("meta"))
    q = torch.zeros(groups, 1, 3, 4)
    rows = [MaskRows(slice(i, i + 1), entry) for i in range(groups)]

    def kernel(q, k, v, attn_mask):
        return optimized_attention(q, k, v, 1, mask=attn_mask, skip_reshape=True)
    for index in range(19):
        out = attend_masks(AttentionCall(q, q, q, None, kernel), rows, index, ReadPattern(0), use_lse=False)
        torch.testing.assert_close(out, torch.full_like(out, (-index - 1) * 0.4))  # two of five keys are the mask's
    assert len(copies) == 19 * tensors


def test_a_run_leaves_no_block_of_a_spilled_entry_on_the_device(loaded, texts, monkeypatch):
    mask = tiny.mask()
    monkeypatch.setattr(StaticEntry, "stored_on", torch.device("meta"))
    run(loaded.model, masked(texts[0], mask), texts[1])
    assert [entry.fetched for entry in mask.store.list_entries()] == [{}]
