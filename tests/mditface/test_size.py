"""The size of a picture: the label map's shape, the model's trained size, whole tokens, a warning far above."""
import logging

import pytest
import torch

import comfy.sample
from mditface.mdit.mditface.size import PRESETS, choose_size
from mditface.nodes.sampling import PictureSize
from mditface.tests.mditface import tiny

RATIO = 8  # pixels along a cell's side; with the tiny model's patches of 4 cells, sides are multiples of 32
CONFIG = tiny.config(resolution=256)


def sides(drawing, preset="trained", width=0, height=0) -> tuple[int, int]:
    return choose_size(CONFIG, RATIO, drawing, preset, width, height)[:2]


@pytest.mark.parametrize("drawing, preset, expected", [
    ((512, 512), "trained", (256, 256)),
    ((512, 512), "trained x 1.5", (384, 384)),
    ((64, 64), "trained x 2", (512, 512)),
    ((512, 512), "drawing", (512, 512)),
    ((500, 300), "drawing", (512, 288)),
    ((1024, 256), "trained", (512, 128)),
    ((4096, 1), "trained", (16384, 32)),
])
def test_a_preset_has_the_shape_of_the_drawing(drawing, preset, expected):
    assert sides(drawing, preset) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_own_sides_go_before_a_preset(preset):
    assert sides((512, 256), preset, width=320, height=96) == (320, 96)
    assert sides((512, 256), preset, width=320) == (320, 160)
    assert sides((512, 256), preset, height=96) == (192, 96)
    assert sides((512, 256), preset, width=1, height=100) == (32, 96)


@pytest.fixture
def make(loaded):
    """(latent, report, what the front end is told) of the node, for a model trained at 32 pixels, of 4-pixel tokens."""
    def run(across, down, **choices):
        output = PictureSize.execute(loaded.model, torch.zeros(1, down, across, 3), **choices)
        return *output.result, output.ui
    return run


def test_the_latent_fits_the_model(make, loaded):
    latent, report, told = make(512, 512, batch_size=2)
    fixed = comfy.sample.fix_empty_latent_channels(loaded.model, latent["samples"])
    assert latent["samples"].shape == fixed.shape == (2, 3, 32, 32) and not latent["samples"].any()
    assert report == "32 x 32 pixels, 1 times the trained size of 32"
    assert told == {"far_size": []}
    assert make(64, 32, width=30, height=19)[0]["samples"].shape == (1, 3, 20, 32)


def test_a_size_far_above_the_trained_one_is_told(make, caplog):
    with caplog.at_level(logging.WARNING):
        _, report, told = make(48, 48, size="drawing")
        assert told == {"far_size": []} and not caplog.records  # half as much again is not far
        _, report, told = make(512, 512, size="drawing")
    assert told == {"far_size": [512, 512, 32]}
    assert report.startswith("512 x 512 pixels, 16 times the trained size of 32: ") and report in caplog.text


def test_a_model_of_unknown_size_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.model.diffusion_model, "config", None)
    with pytest.raises(ValueError, match="model: the trained size of a MDiTBaseModel is not known"):
        PictureSize.execute(loaded.model, torch.zeros(1, 8, 8, 3))
