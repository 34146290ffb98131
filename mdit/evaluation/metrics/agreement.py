"""How well pictures follow their label maps, by a parser (spec mditface.md, section 9)."""
from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...labelmap import CLASSES
from ...parsing import WEIGHTS, load_parser

Parser = Callable[[np.ndarray], np.ndarray]


def open_parser(name: str = str(WEIGHTS)) -> Parser:
    """A parser (H, W, 3) uint8 -> (H, W) class ids in CelebAMask-HQ order.

    name: a weights file of the bundled judge's kind, or `module:function` for any other 19-class parser.
    Raises FileNotFoundError and ValueError for a name that leads to none.
    """
    if name.endswith(".safetensors"):
        return load_parser(Path(name)).parse
    try:
        parser = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"parser: '{name}' is neither a .safetensors file nor an importable module:function "
                         f"({error})") from error
    if not callable(parser):
        raise ValueError(f"parser: '{name}' is a {type(parser).__name__}, which cannot be called with a picture")
    return parser


def agreement(parsed: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Scores in 0..1 of one picture's parsed map (H, W) against the asked one.

    `mean_iou` is over all 19 classes, where one that neither map has counts 1; `mean_iou_present` is over the classes
    of the asked map alone.
    """
    confusion = confusions(parsed, asked)
    iou = class_iou(confusion)
    return {"pixel_accuracy": float(confusion.trace() / confusion.sum()),
            "mean_iou": float(np.nan_to_num(iou, nan=1.0).mean()),
            "mean_iou_present": float(iou[confusion.sum(1) > 0].mean())}


def confusions(parsed: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Pixels (19, 19) of each asked class, by the class that they were parsed as."""
    if parsed.shape != asked.shape:
        raise ValueError(f"the parser's map is {parsed.shape}, the asked one {asked.shape}: it must keep the size")
    if parsed.max() >= len(CLASSES):
        raise ValueError(f"the parser gave class {parsed.max()}, but there are only {len(CLASSES)}: "
                         "it must give ids in CelebAMask-HQ order")
    pairs = asked.astype(np.int64).ravel() * len(CLASSES) + parsed.ravel()
    return np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union (19,) of confusions (19, 19); nan for a class that neither side has."""
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


class LabelAgreement:
    """Means over pictures, and each class's intersection over union over all their pixels."""

    def __init__(self, parser: Parser):
        self.parser, self.pictures = parser, []
        self.confusion = np.zeros((len(CLASSES), len(CLASSES)), np.int64)

    def update(self, image: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Adds a picture (H, W, 3) uint8 and the label map (H, W) that it was to follow; returns the parsed map."""
        parsed = np.asarray(self.parser(image))
        self.pictures.append(agreement(parsed, asked))
        self.confusion += confusions(parsed, asked)
        return parsed

    def compute(self) -> dict:
        """`class_iou` is None for classes that no map has."""
        means = {name: float(np.mean([scores[name] for scores in self.pictures])) for name in self.pictures[0]}
        iou = {name: None if np.isnan(x) else float(x) for name, x in zip(CLASSES, class_iou(self.confusion))}
        return means | {"class_iou": iou}
