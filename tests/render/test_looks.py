"""Renders keep their looks: the classes' sizes and colors are those of looks.json.

After a wanted change delete that file and run this test twice: it writes the file anew and fails once.
"""
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from mditface.mdit.labelmap import CLASSES  # noqa: E402
from mditface.mdit.render.scene import make_sample  # noqa: E402

FILE = Path(__file__).with_name("looks.json")
COUNT, SIZE = 24, 64


def describe(sample) -> dict[str, list[float]]:
    """Pixels of each class and their mean color."""
    found = {}
    for number in np.unique(sample.label):
        inside = sample.label == number
        found[CLASSES[number]] = [int(inside.sum()), *sample.image[inside].mean(0).round(2).tolist()]
    return found


def test_sizes_and_colors_of_the_classes_are_the_stored_ones():
    looks = [describe(make_sample(seed=0, index=i, size=SIZE)) for i in range(COUNT)]
    if not FILE.exists():
        FILE.write_text("[\n" + ",\n".join(map(json.dumps, looks)) + "\n]\n")
        pytest.fail("looks.json is new: look at the renders, then commit it")
    for i, (found, expected) in enumerate(zip(looks, json.loads(FILE.read_text()), strict=True)):
        for name in found.keys() | expected.keys():
            now, then = (side.get(name, [0, 0, 0, 0]) for side in (found, expected))
            assert now[0] == pytest.approx(then[0], rel=0.01, abs=2), (i, name, "pixels")
            if then[0] > 8:
                assert now[1:] == pytest.approx(then[1:], abs=1.5), (i, name, "color")
