"""Training of the face parser that judges images, on a tiny scale."""
import numpy as np
import pytest

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.parsing import ParserConfig, load_parser
from mditface.mdit.recipes.targets.judge import compute_class_weights
from mditface.mdit.recipes.targets.kinds import JudgeSettings, JudgeTarget
from mditface.tests.recipes.tiny_targets import JUDGE
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.mark.parametrize("changes", [{"steps": 12}, {"steps": 60, "size": 16, "widths": (8, 16), "distorted": 0.1}])
def test_judge_learns_and_its_file_loads(paths, changes):
    target = JudgeTarget(JudgeSettings(**JUDGE | changes | {"ema": 0.0}, **paths))
    before = target.measure()["pixel_accuracy"]
    fitted(target)
    assert target.measure()["pixel_accuracy"] > before + 0.05
    parser = load_parser(paths["weights"])
    assert parser.config == ParserConfig(target.settings.size, target.settings.widths)
    assert parser.parse(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16)


def test_rare_classes_weigh_more():
    labels = np.zeros((1, 100, 100), np.uint8)
    labels[0, 0, :10] = CLASSES.index("neck_l")
    weights = compute_class_weights(labels, 0.3)
    assert weights[CLASSES.index("neck_l")] > 2 * weights[0]
    assert compute_class_weights(labels, 0.0).unique().numel() == 1


def test_sizes_that_do_not_fit_are_named(paths):
    with pytest.raises(ValueError, match="16 must divide the size"):
        JudgeSettings(**JUDGE | {"size": 24, "widths": (8, 8, 8, 8)}, **paths)
