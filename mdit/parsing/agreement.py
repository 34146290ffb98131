"""Agreement of two label maps: the map that a parser found in an image, and the map that the image was to follow."""
from __future__ import annotations

import numpy as np

from ..labelmap import CLASSES


def measure_agreement(parsed: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """Scores in 0..1 of a parsed map (H, W) against the asked map (H, W).

    pixel_accuracy: the fraction of the pixels with the asked class.
    mean_iou: the mean intersection over union of all 19 classes; a class in neither map counts 1.
    mean_iou_present: the mean intersection over union of the classes in the asked map.
    """
    confusion = count_confusions(parsed, asked)
    iou = class_iou(confusion)
    return {"pixel_accuracy": float(confusion.trace() / confusion.sum()),
            "mean_iou": float(np.nan_to_num(iou, nan=1.0).mean()),
            "mean_iou_present": float(iou[confusion.sum(1) > 0].mean())}


def count_confusions(parsed: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Pixels (19, 19) of each asked class, by their parsed class."""
    if parsed.shape != asked.shape:
        raise ValueError(f"the parser's map is {parsed.shape}, the asked map {asked.shape}: the parser must keep the "
                         "size")
    if parsed.max() >= len(CLASSES):
        raise ValueError(f"the parser gave class {parsed.max()}, but there are only {len(CLASSES)} classes: the parser "
                         "must give indices in CelebAMask-HQ order")
    pairs = asked.astype(np.int64).ravel() * len(CLASSES) + parsed.ravel()
    return np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union (19,) of confusions (19, 19); nan for a class that neither side has."""
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)
