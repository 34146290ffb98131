"""Training of the face parser that judges images, on a tiny scale."""
import numpy as np
import pytest
import torch

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.parsing import load_parser
from mditface.mdit.recipes.targets.judge import compute_class_weights
from mditface.mdit.recipes.targets.kinds import JudgeSettings, JudgeTarget
from mditface.tests.recipes.tiny_targets import JUDGE
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


def test_judge_learns_and_its_file_loads(paths):
    target = JudgeTarget(JudgeSettings(**JUDGE | {"steps": 12, "ema": 0.0}, **paths))
    before = target.measure()["pixel_accuracy"]
    fitted(target)
    assert target.measure()["pixel_accuracy"] > before + 0.05
    assert load_parser(paths["weights"]).parse(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16)


def test_rare_classes_weigh_more():
    labels = torch.zeros(1, 100, 100, dtype=torch.uint8)
    labels[0, 0, :10] = CLASSES.index("neck_l")
    weights = compute_class_weights(labels, 0.3)
    assert weights[CLASSES.index("neck_l")] > 2 * weights[0]
    assert compute_class_weights(labels, 0.0).unique().numel() == 1
