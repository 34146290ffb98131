"""What an edit of a label map changes, and the node 'Find Changed Region'."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.labelmap import CLASSES, find_class, find_uncovered, grow, remove, to_image, widen_and_soften
from mditface.mdit.labelmap.changes import LAYERS, describe_changes
from mditface.nodes.comparing import ChangedRegion

HAIR, SKIN, GLASSES = map(find_class, ("hair", "skin", "eye_g"))


def face(size=40):
    """A label map (1, size, size): skin in a square with hair above it and glasses on it."""
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[:, 10:30, 10:30] = SKIN
    labels[:, 6:14, 10:30] = HAIR
    labels[:, 18:21, 12:28] = GLASSES
    return labels


def run(before, after, **settings):
    return ChangedRegion.execute(to_image(before), to_image(after), **settings).args[:3]


def test_every_class_has_a_layer():
    assert sorted(LAYERS) == sorted(CLASSES)


def test_grown_hair_covers_and_removed_glasses_uncover():
    before = face()
    wider = grow(before, HAIR, 2)
    mask, uncovered, report = run(before, wider, grow=0, feather=0)
    assert torch.equal(mask, (before != wider).float()) and not uncovered.any()
    share = (wider == HAIR).float().mean() - (before == HAIR).float().mean()
    assert f"hair grew by {share:.1%} of the picture" in report and "skin shrank by" in report
    bare = remove(before, GLASSES)
    mask, uncovered, report = run(before, bare, grow=0, feather=0)
    assert torch.equal(mask, (before == GLASSES).float()) and torch.equal(uncovered, mask)
    assert "3.0% of the picture changed, 3.0% uncovered; skin grew by 3.0%" in report and "glasses gone: 3.0%" in report
    mask, uncovered, report = run(bare, before, grow=0, feather=0)
    assert mask.sum() == 48 and not uncovered.any() and "glasses new: 3.0% of the picture" in report


def test_a_part_that_moves_is_said_to_move():
    before = face()
    moved = remove(before, GLASSES)
    moved[:, 22:25, 12:28] = GLASSES
    mask, uncovered, report = run(before, moved, grow=0, feather=0)
    assert mask.sum() == 96 and uncovered.sum() == 48 and "glasses moved or changed shape" in report


def test_equal_maps_have_no_changed_region():
    mask, uncovered, report = run(face(), face())
    assert ChangedRegion.execute(to_image(face()), to_image(face())).args[3] is False
    assert not mask.any() and not uncovered.any() and report == "label map 1: nothing changed"


def test_a_few_changed_pixels_are_not_none():
    before = torch.zeros(1, 64, 64, dtype=torch.uint8)
    after = before.clone()
    after[0, 0, :2] = GLASSES
    *_, report = run(before, after)
    assert report.startswith("label map 1: less than 0.1% of the picture changed, 0.0% uncovered")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2 ** 32 - 1), st.integers(0, 6), st.integers(0, 6))
def test_masks_are_whole_inside_and_fall_outside(seed, pixels, feather):
    region = torch.from_numpy(np.random.default_rng(seed).random((2, 17, 23)) < 0.01)
    mask = widen_and_soften(region, pixels, feather)
    y, x = np.indices(region.shape[1:])
    for one, soft in zip(region, mask.numpy()):
        places = torch.nonzero(one).numpy()
        away = np.min([np.hypot(y - v, x - u) for v, u in places], axis=0) if len(places) else np.full(y.shape, np.inf)
        assert (soft[away <= pixels] == 1).all() and (soft[away >= pixels + feather + 1] == 0).all()
        between = (away > pixels) & (away < pixels + feather + 1)
        assert (feather == 0) == (soft[between] == 0).all() or not between.any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2 ** 32 - 1))
def test_an_edit_and_its_way_back_uncover_all_that_changed(seed):
    before, after = torch.from_numpy(np.random.default_rng(seed).integers(0, 19, (2, 1, 9, 9), dtype=np.uint8))
    there, back = find_uncovered(before, after), find_uncovered(after, before)
    assert torch.equal(there | back, before != after) and not (there & back).any()
    assert len(list(describe_changes(before[0], after[0]))) >= ((before != after).any())


def test_another_size_is_resized_and_said():
    before = face()
    after = grow(before, HAIR, 2)
    twice = after.repeat_interleave(2, 1).repeat_interleave(2, 2)
    mask, _, report = run(before, twice, grow=0, feather=0)
    assert torch.equal(mask, (before != after).float()) and "after: 80 x 80 resized to 40 x 40" in report
    with pytest.raises(ValueError, match="after: the label map has 40 x 20 pixels, that at 'before' 40 x 40"):
        run(before, after[:, :20])


def test_one_map_serves_a_batch():
    before = face().expand(3, -1, -1)
    after = grow(face(), HAIR, 2)
    assert ChangedRegion.execute(to_image(before), to_image(after)).args[3] is True
    mask, uncovered, report = run(before, after)
    assert mask.shape == uncovered.shape == (3, 40, 40) and report.count("hair grew") == 3
    assert run(after, before)[0].shape == (3, 40, 40)
    with pytest.raises(ValueError, match="after: there are 2 label maps, but 3 at 'before'"):
        run(before, after.expand(2, -1, -1))


@pytest.mark.parametrize("side", [16, 4096])
def test_sizes(side):
    before = torch.zeros(1, side, side, dtype=torch.uint8)
    before[:, side // 4:side // 2] = SKIN
    after = before.clone()
    after[:, side // 4] = HAIR
    mask, _, report = run(before, after, grow=0, feather=2)
    assert mask.shape == (1, side, side) and mask[0, side // 4].eq(1).all() and "hair new" in report or side == 4096


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("image, said", [
    (torch.zeros(0, 8, 8, 3), "the batch is empty"), (torch.zeros(1, 8, 8), "expected images of shape"),
    (torch.rand(1, 64, 64, 3, generator=torch.manual_seed(0)), ".*'Parse Face'")])
def test_bad_label_maps_name_their_input(name, image, said):
    with pytest.raises(ValueError, match=f"^{name}: {said}"):
        ChangedRegion.execute(**{"before": to_image(face()), "after": to_image(face()), name: image})


@pytest.mark.parametrize("pixels, feather", [(0, 0), (3, 200), (300, 5)])
def test_bands_leave_no_trace(pixels, feather):
    region = torch.zeros(1, 1000, 40, dtype=torch.bool)
    region[0, [250, 255, 700], [3, 30, 20]] = True
    mask = widen_and_soften(region, pixels, feather)
    turned = widen_and_soften(region.mT, pixels, feather)  # one band
    assert torch.equal(mask, turned.mT)


def test_softening_stops_when_it_is_told():
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        widen_and_soften(torch.zeros(1, 8, 8, dtype=torch.bool), 1, 1, stop)
