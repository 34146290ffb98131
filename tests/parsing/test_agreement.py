"""Agreement of a parsed label map with the asked one."""
import numpy as np
import pytest

from mditface.mdit.parsing import measure_agreement


def test_equal_maps_agree_fully_and_the_two_means_differ_in_absent_classes():
    asked = np.array([[0, 0, 1, 1]])
    assert measure_agreement(asked, asked) == {"pixel_accuracy": 1.0, "mean_iou": 1.0, "mean_iou_present": 1.0}
    scores = measure_agreement(np.array([[0, 0, 0, 5]]), asked)  # background 2 / 3, skin and the right eye 0
    assert scores == {"pixel_accuracy": 0.5, "mean_iou": pytest.approx((2 / 3 + 16) / 19),
                      "mean_iou_present": pytest.approx(1 / 3)}
