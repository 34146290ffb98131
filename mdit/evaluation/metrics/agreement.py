"""How well images follow their label maps, by a parser (docs/design/mditface.md, section 9)."""
from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...labelmap import CLASSES
from ...parsing import WEIGHTS, load_parser
from ...parsing.agreement import class_iou, count_confusions, measure_agreement

Parser = Callable[[np.ndarray], np.ndarray]


def open_parser(name: str = str(WEIGHTS)) -> Parser:
    """A parser (H, W, 3) uint8 -> class indices (H, W) in CelebAMask-HQ order.

    name: a weights file in the bundled parser's layout, or `module:function` for any other parser of 19 classes.
    Raises FileNotFoundError and ValueError for a name without a parser.
    """
    if name.endswith(".safetensors"):
        return load_parser(Path(name)).parse
    try:
        parser = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"parser: '{name}' is neither a .safetensors file nor an importable module:function "
                         f"({error})") from error
    if not callable(parser):
        raise ValueError(f"parser: '{name}' is a {type(parser).__name__}, which cannot be called with an image")
    return parser


def average_scores(scores: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each score."""
    means = {}
    for name in scores[0]:
        means[name] = float(np.mean([row[name] for row in scores]))
    return means


class LabelAgreement:
    """Means over images, and each class's intersection over union over all their pixels."""

    def __init__(self, parser: Parser):
        self.parser = parser
        self.scores = []
        self.confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)

    def update(self, image: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Adds an image (H, W, 3) uint8 and the label map (H, W) that it was to follow; returns the parsed map."""
        parsed = np.asarray(self.parser(image))
        self.scores.append(measure_agreement(parsed, asked))
        self.confusion += count_confusions(parsed, asked)
        return parsed

    def compute(self) -> dict:
        """`class_iou` is None for classes that no map has."""
        means = average_scores(self.scores)
        iou = {name: None if np.isnan(x) else float(x) for name, x in zip(CLASSES, class_iou(self.confusion))}
        return means | {"class_iou": iou}
