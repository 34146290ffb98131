"""The bundled model's bench on a tiny scale, and the painted masks that it shows the model."""
from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from bench import bundled
from bench.quality import look, measure, painted
from devtools.bundled import MODEL
from mditface.mdit.labelmap import CLASSES, PALETTE
from mditface.mdit.datasets import Renders
from mditface.mdit.render.caption import VOCABULARY, Caption, words
from mditface.mdit.render.appearance import sample_appearance
from mditface.tests.mditface import tiny
from mditface.tests.mditface.test_latents import write as write_latents

WRITERS = {"pixels": tiny.write, "latents": write_latents}


@pytest.fixture(scope="module")
def masks():
    return {mask.name: mask for mask in painted.list_painted_masks()}


def share(mask, part: str) -> np.ndarray:
    return mask.labels == CLASSES.index(part)


def centre(mask, part: str) -> float:
    return float(np.nonzero(share(mask, part))[1].mean())


def test_ten_masks_are_faces(masks):
    assert len(masks) == 10
    for mask in masks.values():
        assert mask.labels.shape == (512, 512) and mask.labels.dtype == np.uint8
        for part in ("skin", "nose", "u_lip", "l_lip", "cloth"):
            assert share(mask, part).sum() > 500, (mask.name, part)
        assert set(words(mask.caption)) <= set(VOCABULARY)


def test_masks_have_the_habits_that_painters_have(masks):
    assert [name for name, mask in masks.items() if mask.swapped] == ["other-habit-of-sides"]
    for name, mask in masks.items():
        left, right = centre(mask, "l_brow"), centre(mask, "r_brow")
        assert (left < right) == mask.swapped, name
        assert share(mask, "neck").any() == (name != "missing-neck")
    assert share(masks["filled-glasses"], "eye_g").any() and not share(masks["filled-glasses"], "l_eye").any()
    frames = masks["frame-only-glasses"]
    assert share(frames, "eye_g").sum() > 1000 and share(frames, "l_eye").any()
    assert any(share(mask, "hat").any() for mask in masks.values())
    assert sum(not share(mask, "hair").any() for mask in masks.values()) == 1


def test_shapes_lie_on_top_of_earlier_ones():
    labels = painted.paint([{"part": "skin", "ellipse": [0, 0, 511, 511]},
                            {"part": "nose", "polygon": [[200, 200], [300, 200], [300, 300], [200, 300]]},
                            {"part": "eye_g", "line": [[0, 250], [511, 250]], "width": 5}])
    assert [CLASSES[labels[y, 256]] for y in (100, 220, 250)] == ["skin", "nose", "eye_g"]
    assert labels[0, 0] == 0


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """Stands for the renderer: pictures that show their label map's colours."""
    def make_renders(seed: int, size: int, count: int, workers: int) -> Renders:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 19, (count, 8, 8), dtype=np.uint8).repeat(size // 8, 1).repeat(size // 8, 2)
        appearances = [sample_appearance(rng) for _ in labels]
        folder = tmp_path / str(seed)
        folder.mkdir()
        np.savez(folder / "0.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
                 caption=list(map(Caption.short, appearances)), attributes=list(map(json.dumps, appearances)))
        return Renders(folder)

    monkeypatch.setattr(measure, "make_renders", make_renders)
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "PAINTED_SEEDS", 1)
    monkeypatch.setattr(look, "MAPS", 1)


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_bench_ends_with_one_json_object(samples, tmp_path, capsys, kind):
    model, smaller = tmp_path / "model.safetensors", tmp_path / "smaller.safetensors"
    WRITERS[kind](model)
    tiny.write(smaller, tiny.config(resolution=16))
    command = {"--model": model, "--before": smaller, "--count": 6, "--fit": 60, "--steps": 1,
               "--sheet": tmp_path / "sheet.png", "--heldout-sheet": tmp_path / "heldout.png"}
    bundled.main([str(part) for pair in command.items() for part in pair])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    gates = {"pixels": bundled.GATES, "latents": bundled.LATENT_GATES}[kind]
    assert set(gates) <= set(result)
    assert result["count"] == 6 and result["steps"] == 1 and result["pixels"] == tiny.CONFIG.resolution
    assert all(0 <= result[name] <= 1 for name in ("hair_color", "glasses", "sex", "painted_pixel_accuracy"))
    assert result["pixel_accuracy_of_ceiling"] == pytest.approx(
        result["generated"]["pixel_accuracy"] / result["ceiling"]["pixel_accuracy"])
    assert result["seconds_per_image"] > 0 and result["seconds_live"] > 0
    assert result["kid"] != result["kid_before"] and result["sharpness"] > 0 and result["seed_difference"] > 0
    assert ("reconstruction_psnr" in result) == (kind == "latents")
    for name in gates:
        assert any(line.startswith(name) for line in lines[:-1])
    side = tiny.CONFIG.resolution
    assert Image.open(tmp_path / "sheet.png").size == (10 * side, 2 * side)
    assert Image.open(tmp_path / "heldout.png").size == (6 * side, 3 * side)


def test_the_bundled_weights_are_measured_by_default():
    options = bundled.parse([])
    assert options.model == MODEL and options.before.is_file()


def test_swapped_sides_are_counted_in_the_standard_habit(monkeypatch):
    monkeypatch.setattr(measure, "PAINTED_SEEDS", 1)
    masks = painted.list_painted_masks()
    swap = masks[[mask.swapped for mask in masks].index(True)]
    asked = []

    class Scores:
        def __init__(self, parser):
            pass

        def update(self, picture, labels):
            asked.append(labels)

        def compute(self):
            return {}

    monkeypatch.setattr(measure, "LabelAgreement", Scores)
    monkeypatch.setattr(measure, "draw", lambda generator, labels, *_: np.zeros((len(labels), 8, 8, 3), np.uint8))
    measure.score_painted(type("Size", (), {"size": 512}), None, 4)
    index = [mask.name for mask in masks].index(swap.name)
    left, right = CLASSES.index("l_eye"), CLASSES.index("r_eye")
    assert (asked[index][swap.labels == left] == right).all() and (asked[0] == masks[0].labels).all()


@pytest.mark.parametrize("name, value, told", [
    ("hair_color", 0.7, "MISSED"), ("hair_color", 0.8, "passed"), ("hair_color", 0.95, "aim reached"),
    ("seconds_per_image", 1.2, "MISSED"), ("seconds_per_image", 0.7, "passed"),
    ("seconds_per_image", 0.4, "aim reached"), ("hat_color", 0.1, ""), ("sharpness", 0.1, "")])
def test_verdicts(name, value, told):
    assert bundled.judge_value(name, value, bundled.GATES) == told


@pytest.mark.parametrize("name, value, told", [
    ("kid_of_before", 0.6, "MISSED"), ("kid_of_before", 0.2, "aim reached"), ("reconstruction_psnr", 31, "passed"),
    ("seconds_live", 0.9, "passed"), ("sharpness", 0.7, "MISSED")])
def test_verdicts_of_large_models(name, value, told):
    assert bundled.judge_value(name, value, bundled.LATENT_GATES) == told
