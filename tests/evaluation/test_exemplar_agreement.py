"""Colours that an image takes over from its exemplar."""
import numpy as np
import pytest

from mditface.mdit.evaluation.metrics.exemplar_agreement import ExemplarAgreement, measure_color_distances
from mditface.mdit.labelmap import CLASSES


def test_agreement_tells_the_own_exemplar_from_the_others():
    labels = np.full((16, 16), CLASSES.index("hair"), np.uint8)
    exemplars = [np.full((16, 16, 3), 50 * i, np.uint8) for i in range(4)]
    scores = {}
    for name, images in (("kept", exemplars), ("mean", [np.full((16, 16, 3), 75, np.uint8)] * 4)):
        agreement = ExemplarAgreement()
        for image, exemplar in zip(images, exemplars):
            agreement.update(image, labels, exemplar, labels)
        scores[name] = agreement.compute()
    assert set(scores["kept"]) == {"hair_color"}  # no other part is in the maps
    assert scores["kept"]["hair_color"] == {"own": 0, "shuffled": pytest.approx(250 / 3), "nearer": 1, "count": 4}
    assert [scores["mean"]["hair_color"][name] for name in ("own", "shuffled")] == [pytest.approx(50)] * 2


def test_median_color_distances():
    labels = np.zeros((16, 16), np.uint8)
    labels[:8] = CLASSES.index("hair")
    one, other = np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)
    other[:8] = (30, 40, 0)
    assert measure_color_distances(one, labels, other, labels) == {"hair_color": 50.0, "background_color": 0.0}
    assert measure_color_distances(one, labels, other, np.zeros_like(labels)).keys() == {"background_color"}
