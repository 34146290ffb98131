"""Training of the autoencoder, on a tiny scale."""
import numpy as np
import pytest
import torch
from safetensors import safe_open

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface.autoencoder import Autoencoder, AutoencoderConfig
from mditface.mdit.mditface.latents import LatentStatistics
from mditface.mdit.recipes.targets.autoencoder import (
    EYES, FILE_PREFIX, Perception, blur, measure_laplacian, weigh_classes,
)
from mditface.tests.recipes.tiny_targets import target_of
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


def test_it_learns_and_its_file_holds_what_the_model_needs(paths):
    target = target_of("autoencoder", paths, steps=40)
    before = target.measure()["psnr"]
    fitted(target)
    assert target.measure()["psnr"] > before + 3
    with safe_open(paths["weights"], "pt") as file:
        config = AutoencoderConfig.from_metadata(file.metadata())
        latent = LatentStatistics.from_metadata(file.metadata())
        sd = {name.removeprefix(FILE_PREFIX): file.get_tensor(name) for name in file.keys()}
    coder = Autoencoder(config)
    coder.load_state_dict(sd)
    assert len(latent.mean) == config.channels and min(latent.deviation) > 0 and len(latent.rgb_bias) == 3


def test_crops_grow_in_the_last_fifth(paths):
    target = target_of("autoencoder", paths, steps=10, crop=32, batch=8)
    target.faces.images = np.zeros((16, 64, 64, 3), np.uint8)
    target.faces.labels = np.zeros((16, 64, 64), np.uint8)
    sizes = [tuple(target.make_batch(step, 0, 1)["labels"].shape) for step in (0, 7, 8, 9)]
    assert sizes == [(8, 32, 32), (8, 32, 32), (2, 64, 64), (2, 64, 64)]


def test_crops_lie_around_eyes_as_often_as_asked(paths):
    target = target_of("autoencoder", paths)
    target.faces.labels = np.zeros((1, 256, 256), np.uint8)
    target.faces.labels[0, 40:42, 200:202] = EYES[0]
    draws = np.random.default_rng(0)
    corners = np.array([target.settings.place_crop(target.faces.labels[0], 32, draws) for _ in range(600)])
    assert corners.min() >= 0 and corners.max() <= 224
    seen = (corners[:, 0] <= 40) & (corners[:, 0] + 32 > 41) & (corners[:, 1] <= 200) & (corners[:, 1] + 32 > 201)
    assert 0.3 < seen.mean() < 0.4


def test_a_true_image_has_no_distance_from_itself():
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    perception = Perception()
    assert perception(image, image).item() == 0
    assert perception(blur(image), image).item() > 0.1
    assert measure_laplacian(torch.full((1, 3, 32, 32), 0.4), torch.ones(1, 1, 32, 32)).item() < 1e-6


def test_a_blurred_image_is_further_away_where_classes_weigh_more():
    difference = torch.zeros(1, 3, 32, 32)
    difference[..., 8, 8] = 1
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    labels[..., 6:11, 6:11] = CLASSES.index("l_eye")
    weights = weigh_classes(labels)
    assert weights.mean().item() == pytest.approx(1) and weights.max() / weights.min() == pytest.approx(4 / 0.7)
    assert measure_laplacian(difference, weights) > 2 * measure_laplacian(difference, torch.ones_like(weights))


def test_the_judge_stays_as_it_is(paths):
    target = target_of("autoencoder", paths)
    before = {name: w.clone() for name, w in target.module.perception.state_dict().items()}
    fitted(target)
    after = target.module.perception.state_dict()
    assert all(torch.equal(w, after[name]) for name, w in before.items())
