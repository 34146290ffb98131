"""How many entries a run needs at once, and their bytes (docs/design/mditface.md, section 6.3)."""
import pytest
import torch

import nodes
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import CPU, OFF, SIDE, TOLERANCE, hooked, masked, reservations, run
from mditface.tests.mditface.test_cache import distinct_labels, mask_of


AREAS = ((64, 64, 0, 0), (64, 64, 64, 0), (64, 96, 0, 64))  # width, height, x, y in the host's pixels; 8 a latent cell


def test_without_a_cache_no_room_is_kept(loaded, texts):
    with reservations() as reserved:
        run(loaded.model, masked(texts[0], tiny.mask()), texts[1], OFF)
    assert reserved == []


def in_areas(cond, *areas):
    return [nodes.ConditioningSetArea().append(cond, *area, 1.0)[0][0] for area in areas]


def in_fractions(cond, mask):
    node = nodes.ConditioningSetAreaPercentage()
    return [*node.append(masked(cond, mask), 0.5, 0.5, 0.0, 0.0, 1.0)[0],
            *node.append(masked(cond, mask), 0.5, 0.5, 0.5, 0.5, 1.0)[0],
            *node.append(masked(cond, mask), 1.0, 0.5, 0.0, 0.5, 1.0)[0]]


def in_bounds(cond, mask):
    """In the bounds of masks of the image, which the host makes no smaller than 8 latent cells."""
    found = []
    for y, x in ((0, 0), (0, 8), (8, 8)):
        plane = torch.zeros(1, SIDE, SIDE)
        plane[:, y:y + 8, x:x + 8] = 1
        found += nodes.ConditioningSetMask().append(masked(cond, mask), plane, "mask bounds", 1.0)[0]
    return found


def with_two_hooks(cond, mask):
    return hooked(masked(cond, mask), 0.5) + hooked(masked(cond, mask), 0.9) + masked(cond, mask)


CROWDED = {
    "three areas": (lambda text, mask: in_areas(masked(text, mask), *AREAS), False, 3),
    "fractions": (in_fractions, False, 3),
    "mask bounds": (in_bounds, False, 3),
    "equal areas": (lambda text, mask: in_areas(masked(text, mask), AREAS[0], AREAS[1], AREAS[0]), False, 2),
    "two hooks and none": (with_two_hooks, False, 3),
    "hooks in areas": (lambda text, mask: in_areas(hooked(masked(text, mask), 0.5), *AREAS), False, 3),
    "the host copies the negative for each area": (lambda text, mask: in_areas(text, *AREAS), True, 4),
    "areas against a masked negative": (lambda text, mask: in_areas(masked(text, mask), *AREAS), True, 4),
}


@pytest.mark.parametrize("make, negative, entries", CROWDED.values(), ids=CROWDED.keys())
def test_many_uses_of_a_mask_do_not_thrash(loaded, texts, make, negative, entries):
    """One pass for each use in the first step and none after it, and room for exactly these entries."""
    def conditionings(mask):
        return make(texts[0], mask), masked(texts[1], mask) if negative else texts[1]
    mask = mask_of(distinct_labels())
    conds = conditionings(mask)
    with reservations() as reserved:
        out, report = run(loaded.model, *conds, steps=10)
    assert reserved == [(entries, mask.store.get_cache(CPU).nbytes)]
    assert report.passes == len(mask.store.get_cache(CPU).entries) == entries
    assert (report.passes + report.hits) % 10 == 0  # as many reads in each step
    torch.testing.assert_close(out, run(loaded.model, *conditionings(mask_of(distinct_labels())), OFF, steps=10)[0],
                               **TOLERANCE)
    if not any("hooks" in extra for _, extra in conds[0]):  # under hooks the host renews the weights' id at each run
        with reservations() as reserved:
            assert run(loaded.model, *conds, steps=10, seed=1)[1].passes == 0
        assert reserved == [(entries, 0)]


def test_keyframes_of_two_hooks_change_entries_once_each(loaded, texts):
    def positive(mask):
        return (hooked(masked(texts[0], mask), 0.5, {0.0: 1.0, 0.5: 0.2})
                + hooked(masked(texts[0], mask), 0.9, {0.0: 0.3, 0.5: 1.0}) + masked(texts[0], mask))
    mask = tiny.mask()
    with reservations() as reserved:
        out, report = run(loaded.model, positive(mask), texts[1], steps=10)
    assert (report.passes, report.hits) == (5, 25)
    assert reserved == [(3, mask.store.get_cache(CPU).nbytes)]
    torch.testing.assert_close(out, run(loaded.model, positive(tiny.mask()), texts[1], OFF, steps=10)[0], **TOLERANCE)


def test_a_mask_without_strength_reserves_nothing(loaded, texts):
    mask = tiny.mask()
    with reservations() as reserved:
        run(loaded.model, masked(texts[0], mask, 0.0), texts[1])
    assert reserved == []


def test_eight_bits_announce_a_quarter_of_float32(loaded, texts):
    mask = tiny.mask()
    with reservations() as reserved:
        run(loaded.model, masked(texts[0], mask), texts[1])
        run(loaded.model, masked(texts[0], mask), texts[1], CacheOptions("8-bit"))
    (_, exact), (_, small) = reserved
    assert exact == 4 * small > 0


def between(cond, start, end):
    return nodes.ConditioningSetTimestepRange().set_range(cond, start, end)[0]


RANGES = {
    "one after the other": ([(0.0, 0.3), (0.31, 0.6), (0.61, 1.0)], 1, 3),
    "two at a time": ([(0.0, 0.4), (0.25, 0.75), (0.45, 1.0)], 2, 4),  # a change of entries may cost a pass
    "both at the moment where they touch": ([(0.0, 0.5), (0.5, 0.7), (0.8, 1.0)], 2, 3),
    "all at once": ([(0.0, 1.0), (0.2, 0.4), (0.3, 0.9)], 3, 3),
    "never": ([(0.0, 1.0), (0.6, 0.4), (0.9, 0.2)], 1, 1),
}


@pytest.mark.parametrize("ranges, at_once, passes", RANGES.values(), ids=RANGES.keys())
def test_ranges_that_do_not_overlap_need_room_one_after_the_other(loaded, texts, ranges, at_once, passes):
    def positive(mask):
        parts = in_areas(masked(texts[0], mask), *[(128, 32, 0, 32 * i) for i in range(3)])
        return [between([part], *limits)[0] for part, limits in zip(parts, ranges)]
    mask = mask_of(distinct_labels())
    with reservations() as reserved:
        out, report = run(loaded.model, positive(mask), texts[1], steps=10)
    one_entry = 2 * tiny.CONFIG.depth * 4 * tiny.CONFIG.width * 4
    assert reserved == [(at_once, at_once * one_entry)]
    assert report.passes == passes
    torch.testing.assert_close(out, run(loaded.model, positive(mask_of(distinct_labels())), texts[1], OFF,
                                        steps=10)[0], **TOLERANCE)


def test_the_range_of_a_reference_counts_like_that_of_a_condition(loaded, texts):
    mask = mask_of(distinct_labels())
    early, late = in_areas(masked(texts[0], mask, 1.0, 0.0, 0.5), AREAS[0]), in_areas(masked(texts[0], mask), AREAS[1])
    with reservations() as reserved:
        run(loaded.model, early + between(late, 0.51, 1.0), texts[1])
    assert [entries for entries, _ in reserved] == [1]
