"""Colours read from an image by a rule."""
import numpy as np

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
