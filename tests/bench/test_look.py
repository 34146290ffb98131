"""How generated images look beside true renders."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.quality import look
from mditface.mdit.labelmap import CLASSES
from mditface.mdit.parsing import load_parser

SKIN = CLASSES.index("skin")


def draw_noise(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_the_gradient_is_that_of_hair_and_skin():
    images = np.zeros((1, 8, 8, 3), np.uint8)
    images[0] = (10 * np.arange(8, dtype=np.uint8))[:, None]
    labels = np.full((1, 8, 8), SKIN, np.uint8)
    labels[0, :, 4:] = 0
    images[0, :, 5:] = draw_noise(1, 8)[0, :, 5:]
    assert look.measure_gradient(images, labels) == pytest.approx(10)


def test_sets_of_the_same_images_have_no_distance():
    parser = load_parser()
    images = draw_noise(8)
    flat = images // 4 + 96
    same = look.measure_distances(look.enlarge(images, 64), look.enlarge(images, 64), parser)
    other = look.measure_distances(look.enlarge(flat, 64), look.enlarge(images, 64), parser)
    assert same["fid"] < 1e-3 < other["fid"] and same["kid"] < other["kid"]


def test_enlarged_images_keep_their_colors():
    image = np.full((1, 8, 8, 3), 77, np.uint8)
    assert (look.enlarge(image, 32) == 77).all() and look.enlarge(image, 32).shape == (1, 32, 32, 3)


def test_images_that_are_the_same_do_not_differ():
    assert look.measure_difference(np.repeat(draw_noise(1), 3, 0)) == 0
    assert look.measure_difference(np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 8, np.uint8)])) == 8


def test_seeds_are_compared_with_true_renders(monkeypatch):
    calls = []

    class Generator:
        size = 32

        def __call__(self, labels, captions, numbers):
            calls.append((labels.shape, list(captions), list(numbers)))
            return torch.stack([torch.full((32, 32, 3), 2 * k, dtype=torch.uint8) for k in range(len(labels))])

    monkeypatch.setattr(look, "make_sample", lambda seed, i, size, look: SimpleNamespace(
        image=np.full((size, size, 3), 4 * look, np.uint8)))
    heldout = SimpleNamespace(images=torch.zeros(2, 32, 32, 3, dtype=torch.uint8), labels=torch.zeros(2, 32, 32))
    heldout = type("Renders", (), {"__len__": lambda self: 2, **vars(heldout)})()
    assert look.measure_seed_difference(Generator(), heldout, ["a", "b"], 2) == pytest.approx(0.5)
    assert calls[0][:2] == ((4, 32, 32), ["a"] * 4) and not set(calls[0][2]) & set(calls[1][2])
