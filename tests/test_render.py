"""The training-data renderer: reproducible samples, legal labels, captions in the vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("numba")

from mdit.training.render.caption import MAX_WORDS, VOCABULARY, Caption, words  # noqa: E402
from mdit.training.render.dataset import write_set  # noqa: E402
from mdit.training.render.look import COLORS, sample_look  # noqa: E402
from mdit.training.render.mesh import load_bust  # noqa: E402
from mdit.training.render.scene import CLASSES, make_sample  # noqa: E402

SIZE = 64


@pytest.fixture(scope="module")
def samples():
    return [make_sample(seed=0, index=i, size=SIZE) for i in range(24)]


def test_same_seed_same_bytes(samples):
    again = make_sample(seed=0, index=3, size=SIZE)
    assert np.array_equal(again.image, samples[3].image)
    assert np.array_equal(again.label, samples[3].label)
    assert (again.caption, again.attributes) == (samples[3].caption, samples[3].attributes)
    assert not np.array_equal(samples[4].image, samples[3].image)


def test_every_class_is_reached_and_no_other(samples):
    labels = np.stack([s.label for s in samples])
    assert labels.dtype == np.uint8 and labels.shape == (24, SIZE, SIZE)
    assert set(np.unique(labels)) == set(range(CLASSES))


def test_person_left_is_picture_right(samples):
    left, right = (np.mean([np.nonzero(s.label == k)[1].mean() for s in samples if (s.label == k).any()])
                   for k in (6, 7))
    assert left > right + 5


def test_background_has_the_named_color(samples):
    for sample in samples:
        shown = sample.image[sample.label == 0].mean(0)
        nearest = min(COLORS, key=lambda name: np.abs(np.array(COLORS[name]) - shown).sum())
        assert nearest == sample.attributes["background_color"]


def test_captions_stay_in_the_vocabulary():
    used = set()
    for seed in range(3000):
        rng = np.random.default_rng(seed)
        told = words(Caption()(sample_look(rng), rng))
        assert len(told) <= MAX_WORDS
        used |= set(told)
    assert used == set(VOCABULARY)


def test_short_caption_names_every_color():
    look = sample_look(np.random.default_rng(1))
    short = Caption.short(look)
    for key in ("clothes_color", "background_color", "skin_tone"):
        assert look[key] in short


def test_only_adult_targets_are_packed():
    names = load_bust().targets
    assert len(names) > 400
    assert not any("baby" in n or "child" in n for n in names)


def test_shards_resume_and_do_not_depend_on_workers(tmp_path):
    write_set(tmp_path / "one", count=3, size=32, seed=5, workers=1, shard=2)
    write_set(tmp_path / "two", count=3, size=32, seed=5, workers=2, shard=2)
    kept = (tmp_path / "two" / "00000.npz").stat().st_mtime_ns
    write_set(tmp_path / "two", count=3, size=32, seed=5, workers=1, shard=2)
    assert (tmp_path / "two" / "00000.npz").stat().st_mtime_ns == kept
    for name, length in (("00000.npz", 2), ("00001.npz", 1)):
        with np.load(tmp_path / "one" / name) as one, np.load(tmp_path / "two" / name) as two:
            assert len(one["image"]) == length
            assert all(np.array_equal(one[key], two[key]) for key in ("image", "label", "caption"))
            assert json.loads(str(one["attributes"][0]))["sex"] in ("man", "woman")
