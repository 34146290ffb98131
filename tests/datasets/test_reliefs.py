"""Renders with their relief, and label maps as other people make them."""
import math

import numpy as np
import pytest
import torch

from mditface.mdit.datasets.crude import draw_crude
from mditface.mdit.datasets.distort import Distortion
from mditface.mdit.datasets.habits import SUBSTITUTES, Habits, Placing
from mditface.mdit.datasets.reliefs import ReliefBatch, Reliefs
from mditface.mdit.labelmap import find_class, swap_sides
from mditface.mdit.relief.network import OUTSIDE
from mditface.mdit.render.dataset import write_shard

NEVER = dict(swap=0.0, incomplete=0.0, crude=0.0, rough=0.0)
SKIN, NECK, NOSE = map(find_class, ("skin", "neck", "nose"))
SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relief")
    for k in range(2):
        write_shard((folder / f"{k:05d}.npz", range(2 * k, 2 * k + 2)), seed=6, size=SIDE, relief=True)
    return folder


@pytest.fixture(scope="module")
def batch(folder):
    return Reliefs(folder).get_batch(torch.arange(4))


def rng():
    return torch.Generator().manual_seed(0)


def sphere(side=128):
    """The relief of a sphere's cap; turning and mirroring leave it as it is."""
    x = torch.linspace(-1, 1, side).expand(side, side)
    y = -x.T
    z = (1 - x ** 2 - y ** 2).clamp(min=0).sqrt()
    inside = x ** 2 + y ** 2 < 0.8
    depth = torch.where(inside, z, -math.inf)
    return ReliefBatch(inside.byte()[None], depth[None], (torch.stack([x, y, z]) * inside)[None])


def test_depth_is_in_units_of_the_figure(batch):
    for labels, depth in zip(batch.labels, batch.depth):
        found = depth[(labels > 0) & depth.isfinite()]
        assert found.quantile(0.02) == pytest.approx(0, abs=0.01)
        assert found.quantile(0.98) == pytest.approx(1, abs=0.01)
    assert torch.isclose(batch.normals.norm(dim=1)[batch.depth.isfinite()], torch.tensor(1.0), atol=1e-2).all()


def test_shards_without_relief_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="render --relief"):
        Reliefs(tmp_path)
    arrays = dict(np.load(folder / "00000.npz"))
    np.savez(tmp_path / "00000.npz", **{name: arrays[name] for name in ("image", "label")})
    np.savez(tmp_path / "00001.npz", **arrays | {"depth": arrays["depth"][:1]})
    np.savez(tmp_path / "00002.npz", **arrays | {"label": arrays["label"] + 19})
    with pytest.raises(ValueError) as caught:
        Reliefs(tmp_path)
    for part in ("00000.npz: it lacks depth, normal", "00001.npz: labels",
                 "00002.npz: label "):
        assert part in str(caught.value)


@pytest.mark.parametrize("changes", [{}, {"turn": 60.0}])
def test_normals_turn_with_their_map(changes):
    still = dict(turn=0.0, zoom=1.0, shift=0.0)
    true = sphere()
    eight = ReliefBatch._make(x.expand(8, *x.shape[1:]) for x in true)
    placed = Placing(Distortion(1.0, **still | changes))(eight, rng())
    both = placed.depth.isfinite() & true.depth.isfinite()
    assert both.float().mean() > 0.6
    assert (placed.normals - true.normals).abs().amax(1)[both].max() < 0.03


def test_a_mirrored_person_keeps_their_left(batch):
    """Half of the samples are mirrored, and the others are not."""
    placed = Placing(Distortion(0.0))(batch, rng())
    mirrored = swap_sides(batch.labels.flip(-1))
    same = [(torch.equal(new, old), torch.equal(new, other))
            for new, old, other in zip(placed.labels, batch.labels, mirrored)]
    assert set(same) == {(True, False), (False, True)}


def test_what_comes_from_beyond_the_map_is_outside(batch):
    placed = Placing(Distortion(1.0, turn=0.0, zoom=1.0, shift=0.3))(batch, rng())
    outside = placed.labels == OUTSIDE
    assert outside.any() and not placed.depth[outside].isfinite().any()


def test_habits_can_be_left_out(batch):
    assert torch.equal(Habits(**NEVER)(batch.labels.clone(), rng()), batch.labels)


@pytest.mark.parametrize("habit", NEVER)
def test_each_habit_changes_some_maps(batch, habit):
    found = Habits(**NEVER | {habit: 1.0}, missing=1.0)(batch.labels.clone(), rng())
    assert (found != batch.labels).flatten(1).any(1).all()
    assert (found == batch.labels).float().mean() > 0.4


def test_a_missing_neck_becomes_what_people_paint_there(batch):
    found = Habits(**NEVER | {"incomplete": 1.0}, missing=1.0)(batch.labels.clone(), rng())
    others = [find_class(name) for name in SUBSTITUTES["neck"]]
    assert torch.isin(found[batch.labels == NECK], torch.tensor(others, dtype=torch.uint8)).all()


def test_crude_parts_are_polygons_in_their_places():
    labels = np.zeros((128, 128), np.uint8)
    rows, columns = np.mgrid[:128, :128]
    labels[(rows - 64) ** 2 + (columns - 64) ** 2 < 40 ** 2] = SKIN
    labels[56:76, 56:72] = NOSE
    labels[0, 0] = NOSE
    crude = draw_crude(labels)
    assert crude[0, 0] == 0 and (crude == labels).mean() > 0.9
    assert 0.8 < (crude == SKIN).sum() / (labels == SKIN).sum() < 1.1
