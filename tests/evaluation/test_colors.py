"""Colours read from an image by a rule."""
import numpy as np
import pytest

from mditface.mdit.evaluation.colors import ColorRule
from mditface.mdit.labelmap import CLASSES


def test_color_rule_names_colors():
    rng = np.random.default_rng(0)
    tones = {"red": (200, 30, 35), "blue": (45, 85, 195), "gray": (132, 134, 138)}
    appearances = [{"hair_color": name} for name in tones for _ in range(12)]
    labels = np.full((len(appearances), 16, 16), CLASSES.index("hair"), np.uint8)
    images = [rng.normal(tones[appearance["hair_color"]], 12, (16, 16, 3)) for appearance in appearances]
    images = np.stack(images).clip(0, 255)
    rule = ColorRule("hair_color", images, labels, appearances)
    assert rule.measure_accuracy(images, labels, appearances) == {"count": 36, "accuracy": 1.0}
    assert rule(images[0], np.zeros_like(labels[0])) is None


@pytest.mark.parametrize("enlarged", [1, 4])
def test_a_part_of_the_same_share_is_judged_at_every_size(enlarged):
    side = 32 * enlarged
    labels = np.zeros((2, side, side), np.uint8)
    labels[:, :side // 2] = CLASSES.index("hair")
    images = np.zeros((2, side, side, 3), np.uint8)
    rule = ColorRule("hair_color", images, labels, [{"hair_color": "black"}] * 2)
    sliver = np.zeros((side, side), np.uint8)
    sliver[:enlarged, :2 * enlarged] = CLASSES.index("hair")  # 2 / 32^2 of the image
    larger = sliver.copy()
    larger[:enlarged, :3 * enlarged] = CLASSES.index("hair")
    assert rule(images[0], sliver) is None and rule(images[0], larger) == "black"
