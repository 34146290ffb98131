"""From 256 px on samples have fine strands, skin and light; labels and colours stay those of the small ones."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from mdit.render import shading  # noqa: E402
from mdit.render.appearance import COLORS, sample_appearance  # noqa: E402
from mdit.render.dataset import write_set  # noqa: E402
from mdit.render.head import build_head  # noqa: E402
from mdit.render.noise import sample_noise  # noqa: E402
from mdit.render.paint import Label  # noqa: E402
from mdit.render.scene import FINE_SIZE, make_sample  # noqa: E402
from mdit.render.strands import grow_between, grow_lashes, make_ribbons  # noqa: E402

SEED = 11
COUNT = 5


@pytest.fixture(scope="module")
def fine():
    return [make_sample(SEED, i, FINE_SIZE, relief=True) for i in range(COUNT)]


@pytest.fixture(scope="module")
def plain():
    return [make_sample(SEED, i, FINE_SIZE // 2) for i in range(COUNT)]


def halve(image):
    size = len(image) // 2
    return image.reshape(size, 2, size, 2, -1).mean((1, 3)).squeeze()


def test_same_seed_same_bytes(fine):
    again = make_sample(SEED, 1, FINE_SIZE)
    assert np.array_equal(again.image, fine[1].image) and np.array_equal(again.label, fine[1].label)
    assert again.relief is None


def test_the_scene_is_that_of_the_small_sample(fine, plain):
    for large, small in zip(fine, plain):
        assert (large.caption, large.attributes) == (small.caption, small.attributes)
        assert (large.label[1::2, 1::2] == small.label).mean() > 0.93


def test_flat_colors_stay_near_those_of_the_small_sample(fine, plain):
    for large, small in zip(fine, plain):
        for name in (Label.background, Label.skin, Label.cloth):
            at = (small.label == name) & (large.label[1::2, 1::2] == name)
            if at.sum() > 200:
                shown, wanted = halve(large.image)[at].mean(0), small.image[at].mean(0)
                assert np.abs(shown - wanted).max() < 28, (name, shown, wanted)


def test_background_has_the_named_color(fine):
    for sample in fine:
        shown = sample.image[sample.label == 0].mean(0)
        nearest = min(COLORS, key=lambda name: np.abs(np.array(COLORS[name]) - shown).sum())
        assert nearest == sample.attributes["background_color"]


def test_skin_and_hair_have_grain(fine, plain):
    """Neighbouring pixels differ more than in the small sample enlarged."""
    for large, small in zip(fine, plain):
        for name in (Label.skin, Label.hair):
            at = (large.label == name)[:, 1:] & (large.label == name)[:, :-1]
            if at.sum() > 2000:
                enlarged = small.image.repeat(2, 0).repeat(2, 1)
                step, before = (np.abs(np.diff(image.astype(float), axis=1))[at].mean()
                                for image in (large.image, enlarged))
                assert step > 0.8 * before


def test_relief_is_where_something_is(fine):
    for sample in fine:
        depth, normal = sample.relief
        assert depth.dtype == normal.dtype == np.float16
        there = np.isfinite(depth)
        assert (there == (sample.label > 0)).mean() > 0.97
        length = np.linalg.norm(normal.astype(np.float32), axis=-1)
        assert np.abs(length[there] - 1).max() < 2e-3 and not length[~there].any()
        assert (normal[there][:, 2] >= -0.1).all()


def test_the_nose_is_nearest_and_its_sides_look_aside(fine):
    sample = fine[3]  # without hat and glasses
    depth, normal = (values.astype(np.float32) for values in sample.relief)
    middle = {name: np.median(depth[sample.label == name]) for name in (Label.nose, Label.skin, Label.neck)}
    assert middle[Label.nose] > middle[Label.skin] > middle[Label.neck]
    skin = np.isin(sample.label, (Label.skin, Label.nose))
    column = np.nonzero(skin)[1]
    x = normal[skin][:, 0]
    assert x[column > np.percentile(column, 85)].mean() > 0.3 and x[column < np.percentile(column, 15)].mean() < -0.3
    chin = sample.label == Label.neck
    assert normal[chin][:, 1].mean() < normal[skin][:, 1].mean()


def test_relief_is_written_on_request(tmp_path):
    write_set(tmp_path, count=1, size=32, seed=5, workers=1, shard=1, relief=True)
    with np.load(tmp_path / "00000.npz") as shard:
        assert shard["depth"].shape == (1, 32, 32) and shard["normal"].shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="another folder"):
        write_set(tmp_path, count=1, size=32, seed=5, workers=1, shard=1)


def test_noise_has_its_gradient():
    points = np.random.default_rng(0).uniform(-2, 2, (50, 3))
    frequency = np.array([3.0, 5, 7])
    at = sample_noise(points, frequency, 7)
    assert np.abs(at[:, 0]).max() <= 1 and at[:, 0].std() > 0.2
    for axis in range(3):
        moved = points.copy()
        moved[:, axis] += 1e-4 / frequency[axis]
        assert np.allclose((sample_noise(moved, frequency, 7)[:, 0] - at[:, 0]) / 1e-4, at[:, 1 + axis], atol=5e-3)
    assert not np.allclose(sample_noise(points, frequency, 8)[:, 0], at[:, 0], atol=0.1)


def test_a_strand_without_shift_is_its_guide():
    guides = np.random.default_rng(1).random((2, 5, 3)).astype(np.float32)
    still = np.zeros((2, 3), np.float32)
    strands = grow_between(guides, np.array([1, 0]), still, np.ones(2, np.float32), still, 9)
    assert np.allclose(strands[:, ::2], guides[::-1], atol=1e-6)


def test_ribbons_face_the_viewer_and_taper():
    strand = np.array([[[0, 0, 0], [0, 1, 0], [0, 2, 0]]], np.float32)
    view, width = np.array([0, 0, 1], np.float32), np.array([0.2], np.float32)
    edges, tangents = make_ribbons(strand, view, width, np.float32(0.5))
    assert np.allclose(edges[0, :, 1] - edges[0, :, 0], [[0.2, 0, 0], [0.175, 0, 0], [0.1, 0, 0]], atol=1e-6)
    assert np.allclose(tangents, [0, 1, 0])


def test_lashes_stand_at_the_eyes():
    rng = np.random.default_rng(0)
    head = build_head(sample_appearance(rng), rng)
    lashes = grow_lashes(head, rng)
    eyes = np.array([[0.31, 7.28], [-0.31, 7.28]])
    away = np.linalg.norm(lashes[:, 0, None, :2] - eyes, axis=-1).min(1)
    assert away.max() < 0.25 and np.linalg.norm(lashes[:, -1] - lashes[:, 0], axis=-1).max() < 0.2


def test_display_is_the_inverse_of_linear_below_the_shoulder():
    values = np.linspace(0, 0.8, 50, dtype=np.float32)
    assert np.allclose(shading.to_display(shading.to_linear(values)), values, atol=1e-5)
    bright = shading.to_display(np.linspace(0.5, 9, 100, dtype=np.float32))
    assert (np.diff(bright) >= 0).all() and bright.max() <= 1
