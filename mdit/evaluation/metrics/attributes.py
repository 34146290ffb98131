"""Reads attributes from an image, by rules fitted on renders, whose attributes are known."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...labelmap import CLASSES
from ...datasets import Renders
from ..colors import PARTS, ColorRule
from .agreement import Parser

FACE = [CLASSES.index(name) for name in ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth",
                                         "u_lip", "l_lip")]
REGION_NAMES = (
    ("skin",), ("nose",), ("eye_g",), ("l_eye",), ("r_eye",), ("l_brow",), ("r_brow",), ("l_ear", "r_ear"), ("mouth",),
    ("u_lip",), ("l_lip",), ("hair",), ("neck",), ("cloth",), ("hat",))
REGIONS = [list(map(CLASSES.index, names)) for names in REGION_NAMES]
POSITION_QUANTILES = (0.05, 0.5, 0.95)  # describe where a region lies
COLOR_QUANTILES = (0.1, 0.4, 0.6, 0.9)
REGION_WIDTH = 1 + 2 * len(POSITION_QUANTILES) + 3 * len(COLOR_QUANTILES)
PRESENCE = ("none", "some")
JUDGED = {"glasses": ("none", "glasses", "sunglasses"), "sex": ("man", "woman"), "lipstick": PRESENCE,
          "facial_hair": PRESENCE, "hat": PRESENCE}
KERNEL_WIDTH = 0.1
SHRINKAGE = 0.01


class Frame(NamedTuple):
    """The box of a face, in pixels."""
    top: float
    left: float
    height: float
    width: float


def find_asked_value(attribute: str, appearance: dict[str, str]) -> str:
    """The value of one of the judged attributes. Lipstick of any colour, and any hat and facial hair, is 'some'."""
    if JUDGED[attribute] == PRESENCE and appearance[attribute] != "none":
        return "some"
    return appearance[attribute]


def find_face_frame(parsed: np.ndarray) -> Frame:
    """The frame of the face in a label map (H, W). The whole map if there is no face."""
    rows, columns = np.nonzero(np.isin(parsed, FACE))
    if len(rows) < len(FACE):
        return Frame(0.0, 0.0, *map(float, parsed.shape))
    top, bottom = np.quantile(rows, (0.02, 0.98))
    left, right = np.quantile(columns, (0.02, 0.98))
    return Frame(top, left, max(1.0, bottom - top), max(1.0, right - left))


def compute_region_statistics(image: np.ndarray, parsed: np.ndarray) -> np.ndarray:
    """(15 x 19,): each region's fraction of the image, its position in the face's frame, and its colours in 0..1."""
    frame = find_face_frame(parsed)
    out = np.zeros((len(REGIONS), REGION_WIDTH))
    for row, classes in zip(out, REGIONS):
        inside = np.isin(parsed, classes)
        if not inside.any():
            continue
        rows, columns = np.nonzero(inside)
        y = (np.quantile(rows, POSITION_QUANTILES) - frame.top) / frame.height
        x = (np.quantile(columns, POSITION_QUANTILES) - frame.left) / frame.width
        colors = np.quantile(image[inside] / 255, COLOR_QUANTILES, axis=0)  # (4, 3)
        row[:] = np.concatenate([[inside.mean()], y, x, colors.ravel()])
    return out.ravel()


class ShapeRules:
    """Names the judged attributes by kernel ridge regression on the statistics of an image's parsed regions.

    images: (N, S, S, 3) uint8. parsed: (N, S, S) by the parser that will read the judged images.
    appearances: the attributes of the images.
    """

    def __init__(self, images: np.ndarray, parsed: np.ndarray, appearances: list[dict[str, str]]):
        x = np.stack(list(map(compute_region_statistics, images, parsed)))  # (N, F)
        self.mean = x.mean(0)
        self.deviation = x.std(0) + 1e-3
        self.x = (x - self.mean) / self.deviation
        gram = self.compute_kernel(self.x) + SHRINKAGE * np.eye(len(x))
        self.coefficients = {}
        self.offsets = {}
        for attribute, values in JUDGED.items():
            asked = np.array([find_asked_value(attribute, appearance) for appearance in appearances])
            targets = (asked[:, None] == np.array(values)).astype(float)  # (N, values)
            self.offsets[attribute] = targets.mean(0)
            self.coefficients[attribute] = np.linalg.solve(gram, targets - targets.mean(0))  # (N, values)

    def compute_kernel(self, x: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, N)."""
        squares = (x ** 2).sum(1)[:, None] + (self.x ** 2).sum(1) - 2 * x @ self.x.T
        return np.exp(-KERNEL_WIDTH / x.shape[1] * squares)

    def __call__(self, image: np.ndarray, parsed: np.ndarray) -> dict[str, str]:
        """The judged attributes of an image (H, W, 3) uint8 and its parsed map (H, W)."""
        x = (compute_region_statistics(image, parsed) - self.mean) / self.deviation
        similarity = self.compute_kernel(x[None])  # (1, N)
        found = {}
        for attribute, values in JUDGED.items():
            scores = similarity @ self.coefficients[attribute] + self.offsets[attribute]  # (1, values)
            found[attribute] = values[int(scores.argmax())]
        return found


class AttributeRules:
    """All rules, fitted on the same renders: colours in the asked map, the other attributes in the parsed map."""

    def __init__(self, renders: Renders, parser: Parser):
        images = renders.images.numpy()
        labels = renders.labels.numpy()
        parsed = np.stack([parser(image) for image in images])
        self.colors = [ColorRule(name, images, labels, renders.attributes) for name in PARTS]
        self.shapes = ShapeRules(images, parsed, renders.attributes)

    def find_hits(self, image: np.ndarray, asked: np.ndarray, parsed: np.ndarray, appearance: dict[str, str]
             ) -> dict[str, bool]:
        """Whether an image shows each attribute of the appearance. Attributes that cannot be judged are left out."""
        hits = {}
        for rule in self.colors:
            if appearance[rule.attribute] == "none":
                continue
            seen = rule(image, asked)
            if seen is not None:
                hits[rule.attribute] = seen == appearance[rule.attribute]
        for name, value in self.shapes(image, parsed).items():
            hits[name] = value == find_asked_value(name, appearance)
        return hits


class AttributeAccuracy:
    """Fractions of images that show the attributes of their appearances."""

    def __init__(self, rules: AttributeRules):
        self.rules = rules
        self.hits: dict[str, list[bool]] = {}

    def update(self, image: np.ndarray, asked: np.ndarray, parsed: np.ndarray, appearance: dict[str, str]) -> None:
        for name, hit in self.rules.find_hits(image, asked, parsed, appearance).items():
            self.hits.setdefault(name, []).append(hit)

    def compute(self) -> dict[str, dict[str, float]]:
        return {name: {"count": len(hits), "accuracy": float(np.mean(hits))} for name, hits in self.hits.items()}
