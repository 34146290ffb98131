"""The training-data renderer: reproducible samples, legal labels, captions in the vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("numba")

from mdit.labelmap import CLASSES  # noqa: E402
from mdit.render.__main__ import draw_contact_sheet  # noqa: E402
from mdit.render import dataset  # noqa: E402
from mdit.render.caption import MAX_WORDS, VOCABULARY, Caption, words  # noqa: E402
from mdit.render.dataset import write_set, write_shard  # noqa: E402
from mdit.render.dress import compute_cloth_height  # noqa: E402
from mdit.render.hair import FACE_CENTER, FACE_HALF, KNOTS, grow  # noqa: E402
from mdit.render.head import build_head  # noqa: E402
from mdit.render.appearance import (  # noqa: E402
    BEARD_COLORS, CLOTHES, COLORS, HAIR_COLORS, PART_COLORS, PERSON, sample_appearance,
)
from mdit.render.mesh import BUST_FILE, load_bust  # noqa: E402
from mdit.render.paint import choose_facial_hair_color  # noqa: E402
from mdit.render.scene import make_sample, render  # noqa: E402

SIZE = 64


@pytest.fixture(scope="module")
def samples():
    return [make_sample(seed=0, index=i, size=SIZE) for i in range(24)]


def label_of(seed, **attributes):
    """Label map (SIZE, SIZE) of the random head ``seed`` with some attributes set."""
    rng = np.random.default_rng(seed)
    look = sample_appearance(rng) | attributes
    return render(build_head(look, rng), look, SIZE, rng).label


def load(folder):
    """All arrays of a folder's shards, in order."""
    shards = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    return {key: np.concatenate([shard[key] for shard in shards])
            for key in ("image", "label", "caption", "attributes")}


def test_same_seed_same_bytes(samples):
    again = make_sample(seed=0, index=3, size=SIZE)
    assert np.array_equal(again.image, samples[3].image)
    assert np.array_equal(again.label, samples[3].label)
    assert (again.caption, again.attributes) == (samples[3].caption, samples[3].attributes)
    assert not np.array_equal(samples[4].image, samples[3].image)


def test_every_class_is_reached_and_no_other(samples):
    labels = np.stack([s.label for s in samples])
    assert labels.dtype == np.uint8 and labels.shape == (24, SIZE, SIZE)
    assert set(np.unique(labels)) == set(range(len(CLASSES)))


@pytest.mark.parametrize("size", [32, 128])
def test_other_sizes_show_the_same_scene(samples, size):
    for index in range(3):
        other = make_sample(seed=0, index=index, size=size)
        assert other.image.shape == (size, size, 3) and other.caption == samples[index].caption
        small, large = sorted((other, samples[index]), key=lambda sample: len(sample.label))
        step = len(large.label) // len(small.label)
        assert (large.label[step // 2::step, step // 2::step] == small.label).mean() > 0.85
        shrunk = large.image.reshape(len(small.image), step, -1, step, 3).mean((1, 3))
        assert np.abs(shrunk - small.image).mean() < 8


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
        told = words(Caption()(sample_appearance(rng), rng))
        assert len(told) <= MAX_WORDS
        used |= set(told)
    assert used == set(VOCABULARY)


def test_short_caption_names_every_color():
    look = sample_appearance(np.random.default_rng(1))
    short = Caption.short(look)
    for key in ("clothes_color", "background_color", "skin_tone"):
        assert look[key] in short


def test_beards_and_brows_are_not_dyed():
    dyed = {"pink", "blue", "green", "purple", "orange"}
    assert dyed <= set(BEARD_COLORS) and not dyed & set(BEARD_COLORS.values())
    look = sample_appearance(np.random.default_rng(1)) | {"age": "young"}
    for name in dyed:
        natural = np.array(HAIR_COLORS[BEARD_COLORS[name]]) / 255
        assert np.allclose(choose_facial_hair_color(look | {"hair_color": name}), 0.62 * natural)


def strands_of(seed, **attributes):
    """Strand points (N, P, 3) of the random head ``seed`` with some attributes set."""
    rng = np.random.default_rng(seed)
    look = sample_appearance(rng) | dict(bangs="no", receding="no", hat="none", hair_style="loose") | attributes
    return grow(build_head(look, rng), look, rng)


def test_no_loose_strand_hangs_over_the_face():
    for seed in range(4):
        strands = strands_of(seed, hair_length="long", hair_texture="curly")
        oval = np.linalg.norm((strands[..., :2] - FACE_CENTER) / FACE_HALF, axis=2)
        assert not ((oval < 0.85) & (strands[..., 2] > 0.8)).any()


def test_cropped_hair_stays_near_its_roots():
    for seed in (3, 7, 8):
        strands = strands_of(seed, hair_length="buzz", hair_texture="straight")
        assert np.linalg.norm(strands - strands[:, :1], axis=2).max() < 0.2


@pytest.mark.parametrize("style", ["tied", "bun"])
def test_hair_put_up_ends_at_its_knot(style):
    strands = strands_of(3, hair_length="long", hair_texture="straight", hair_style=style)
    start, end = (np.linalg.norm(strands[:, k] - KNOTS[style], axis=1) for k in (0, -1))
    assert np.median(start) > 1 and np.percentile(end, 90) < 0.5


def test_shoulders_are_dressed():
    vertices = load_bust().vertices
    shoulder = vertices[(np.abs(vertices[:, 0]) > 1.0) & (vertices[:, 1] < 6.3)]
    assert len(shoulder) > 100
    for clothes in set(CLOTHES) - {"top"}:
        assert (compute_cloth_height(shoulder, clothes) > 0).all()


def test_clothes_are_in_the_picture(samples):
    shown = [(s.label == CLASSES.index("cloth")).mean() > 0.01 for s in samples]
    assert np.mean(shown) > 0.9


def test_kinds_of_hat_differ():
    caps, beanies, hats = (label_of(3, hat=kind, hat_color="red") == CLASSES.index("hat")
                           for kind in ("cap", "beanie", "hat"))
    width = [shape.any(0).sum() for shape in (caps, beanies, hats)]
    assert width[2] > 1.2 * max(width[:2])
    assert (caps & beanies).sum() < 0.85 * (caps | beanies).sum()


def test_jewellery_can_be_seen():
    worn = dict(hair_length="bald", hair_style="none", hair_color="none", hat="none", earrings="yes",
                necklace="yes")
    for seed in range(6):
        label = label_of(seed, **worn)
        assert (label == CLASSES.index("neck_l")).mean() > 0.018
        assert (label == CLASSES.index("ear_r")).mean() > 0.003


def test_the_bust_is_small_and_its_licence_is_beside_it():
    assert BUST_FILE.stat().st_size < 1e6
    assert "CC0 1.0 Universal" in (BUST_FILE.parent / "LICENSE.md").read_text()


def test_only_adult_targets_are_packed():
    names = load_bust().targets
    assert len(names) > 400
    assert not any("baby" in n or "child" in n for n in names)


def test_only_adults_are_described():
    looks = [sample_appearance(np.random.default_rng(seed)) for seed in range(300)]
    assert {look["age"] for look in looks} == {"young", "middle-aged", "old"}
    assert {look["sex"] for look in looks} == {"man", "woman"}


def test_workers_and_shards_do_not_change_the_samples(tmp_path):
    write_set(tmp_path, count=3, size=32, seed=5, workers=2, shard=2)
    shards = load(tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2 and len(shards["image"]) == 3
    for index in range(3):
        sample = make_sample(seed=5, index=index, size=32)
        assert np.array_equal(shards["image"][index], sample.image)
        assert np.array_equal(shards["label"][index], sample.label)
        assert shards["caption"][index] == sample.caption
        assert json.loads(str(shards["attributes"][index])) == sample.attributes


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
    def stop(file, **arrays):
        file.write(b"half a shard")
        raise KeyboardInterrupt

    first, second = tmp_path / "00000.npz", tmp_path / "00001.npz"
    dataset.claim(tmp_path, dict(count=3, size=32, seed=5, shard=2))
    write_shard((first, range(2)), seed=5, size=32)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset.np, "savez_compressed", stop)
        write_shard((second, range(2, 3)), seed=5, size=32)
    kept = first.stat().st_mtime_ns
    assert list(tmp_path.glob("*.npz")) == [first]
    write_set(tmp_path, count=3, size=32, seed=5, workers=1, shard=2)
    assert first.stat().st_mtime_ns == kept
    assert np.array_equal(load(tmp_path)["image"][2], make_sample(seed=5, index=2, size=32).image)
    assert not list(tmp_path.glob("*.part"))


def test_a_set_of_whole_shards_grows(tmp_path):
    recipe = dict(size=32, seed=5, shard=2)
    write_set(tmp_path, count=2, workers=1, **recipe)
    kept = (tmp_path / "00000.npz").stat().st_mtime_ns
    write_set(tmp_path, count=3, workers=1, **recipe)
    assert (tmp_path / "00000.npz").stat().st_mtime_ns == kept
    assert np.array_equal(load(tmp_path)["image"][2], make_sample(seed=5, index=2, size=32).image)
    for count in (2, 4):  # fewer than before, and more than the half shard of the third sample allows
        with pytest.raises(ValueError, match="another folder"):
            write_set(tmp_path, count=count, workers=1, **recipe)


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    recipe = dict(count=3, size=32, seed=5, shard=2)
    dataset.claim(tmp_path, recipe)
    for key in recipe:
        with pytest.raises(ValueError, match="another folder"):
            write_set(tmp_path, **(recipe | {key: 7}), workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        write_set(tmp_path, **recipe, workers=0)
    (tmp_path / dataset.RECIPE_FILE).unlink()
    (tmp_path / "00000.npz").touch()
    with pytest.raises(ValueError, match="new folder"):
        write_set(tmp_path, **recipe, workers=1)


def test_views_show_one_person():
    alone = [make_sample(seed=5, index=i, size=32).attributes for i in range(6)]
    views = [make_sample(seed=5, index=i, size=32, views=3).attributes for i in range(6)]
    assert (views[0], views[3]) == (alone[0], alone[3])
    for first, later in ((0, 1), (0, 2), (3, 4), (3, 5)):
        for key in PERSON:
            assert views[later][key] == views[first][key], key
        for key in PART_COLORS:
            if "none" not in (alone[later][key], views[first][key]):
                assert views[later][key] == views[first][key], key
            else:
                assert views[later][key] == alone[later][key], key
        assert views[later]["expression"] == alone[later]["expression"]


def test_looks_show_the_same_shapes_in_another_light():
    first, second, again = (make_sample(4, 1, 64, look=look) for look in (0, 1, 1))
    assert first.attributes == second.attributes
    assert (first.label == second.label).mean() > 0.99
    assert np.abs(first.image.astype(float) - second.image).mean() > 1
    assert np.array_equal(second.image, again.image)


def test_people_are_noted_by_sample(tmp_path):
    write_set(tmp_path, count=3, size=32, seed=5, workers=1, shard=2, views=2)
    assert (tmp_path / dataset.PEOPLE_FILE).read_text() == "00000-0000 0\n00000-0001 0\n00001-0000 1\n"
    assert np.array_equal(load(tmp_path)["image"][1], make_sample(seed=5, index=1, size=32, views=2).image)
    with pytest.raises(ValueError, match="another folder"):
        write_set(tmp_path, count=3, size=32, seed=5, workers=1, shard=2)


def test_contact_sheet(tmp_path):
    draw_contact_sheet(tmp_path / "sheet.png", count=3, size=32, seed=0, columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (64, 128)
    with pytest.raises(ValueError, match="count"):
        draw_contact_sheet(tmp_path / "sheet.png", count=0, size=32, seed=0)
