"""Reads a render's looks from its pixels: rules fitted on renders, whose looks are known."""
from __future__ import annotations

import numpy as np

from ...labelmap import CLASSES
from ..colors import PARTS, ColorRule
from ...datasets import Renders
from .agreement import Parser

FACE = [CLASSES.index(name) for name in ("skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "mouth",
                                         "u_lip", "l_lip")]
REGIONS = [[CLASSES.index(name) for name in names] for names in (
    ("skin",), ("nose",), ("eye_g",), ("l_eye",), ("r_eye",), ("l_brow",), ("r_brow",), ("l_ear", "r_ear"), ("mouth",),
    ("u_lip",), ("l_lip",), ("hair",), ("neck",), ("cloth",))]
PLACES, TONES = (0.05, 0.5, 0.95), (0.1, 0.4, 0.6, 0.9)  # quantiles that describe where a region lies, and its colours
REGION_WIDTH = 1 + 2 * len(PLACES) + 3 * len(TONES)
JUDGED = {"glasses": ("none", "glasses", "sunglasses"), "sex": ("man", "woman"), "lipstick": ("none", "some")}
KERNEL_WIDTH, SHRINKAGE = 0.1, 0.01


def asked_value(attribute: str, look: dict[str, str]) -> str:
    """What a look says of one of the judged attributes; lipstick of any colour is 'some'."""
    return "some" if attribute == "lipstick" and look["lipstick"] != "none" else look[attribute]


def face_frame(parsed: np.ndarray) -> tuple[float, float, float, float]:
    """Top, left, height and width in pixels of the face in a label map (H, W); of the whole where there is none."""
    rows, columns = np.nonzero(np.isin(parsed, FACE))
    if len(rows) < len(FACE):
        return 0.0, 0.0, *map(float, parsed.shape)
    (top, bottom), (left, right) = (np.quantile(axis, (0.02, 0.98)) for axis in (rows, columns))
    return top, left, max(1.0, bottom - top), max(1.0, right - left)


def region_statistics(image: np.ndarray, parsed: np.ndarray) -> np.ndarray:
    """(14 x 19,): each region's share of the picture, its place in the face's frame, and its colours in 0..1."""
    top, left, height, width = face_frame(parsed)
    out = np.zeros((len(REGIONS), REGION_WIDTH))
    for row, classes in zip(out, REGIONS):
        inside = np.isin(parsed, classes)
        if inside.any():
            rows, columns = np.nonzero(inside)
            row[:] = np.concatenate([[inside.mean()], (np.quantile(rows, PLACES) - top) / height,
                                     (np.quantile(columns, PLACES) - left) / width,
                                     np.quantile(image[inside] / 255, TONES, axis=0).ravel()])
    return out.ravel()


class LookRules:
    """Names glasses, sex and lipstick by kernel ridge regression on the statistics of a picture's parsed regions.

    images (N, S, S, 3) uint8, parsed (N, S, S) by the parser that will read the judged pictures, and their looks.
    """

    def __init__(self, images: np.ndarray, parsed: np.ndarray, looks: list[dict[str, str]]):
        x = np.stack([region_statistics(*pair) for pair in zip(images, parsed)])  # (N, F)
        self.mean, self.deviation = x.mean(0), x.std(0) + 1e-3
        self.x = (x - self.mean) / self.deviation
        gram = self.kernel(self.x) + SHRINKAGE * np.eye(len(x))
        self.coefficients, self.offsets = {}, {}
        for attribute, values in JUDGED.items():
            targets = np.array([[asked_value(attribute, look) == value for value in values] for look in looks], float)
            self.offsets[attribute] = targets.mean(0)
            self.coefficients[attribute] = np.linalg.solve(gram, targets - targets.mean(0))  # (N, values)

    def kernel(self, x: np.ndarray) -> np.ndarray:
        """(n, F) -> (n, N)."""
        squares = (x ** 2).sum(1)[:, None] + (self.x ** 2).sum(1) - 2 * x @ self.x.T
        return np.exp(-KERNEL_WIDTH / x.shape[1] * squares)

    def __call__(self, image: np.ndarray, parsed: np.ndarray) -> dict[str, str]:
        """The judged attributes of a picture (H, W, 3) uint8 and its parsed map (H, W)."""
        near = self.kernel(((region_statistics(image, parsed) - self.mean) / self.deviation)[None])
        return {attribute: values[int((near @ self.coefficients[attribute] + self.offsets[attribute]).argmax())]
                for attribute, values in JUDGED.items()}


class AttributeRules:
    """All rules, fitted on the same renders: colours of the asked parts, and looks of the parsed ones."""

    def __init__(self, renders: Renders, parser: Parser):
        images, labels = renders.images.numpy(), renders.labels.numpy()
        self.colors = [ColorRule(name, images, labels, renders.attributes) for name in PARTS]
        self.looks = LookRules(images, np.stack([parser(image) for image in images]), renders.attributes)

    def hits(self, image: np.ndarray, asked: np.ndarray, parsed: np.ndarray, look: dict[str, str]) -> dict[str, bool]:
        """Which attributes of the look a picture shows; those that cannot be judged on it are left out."""
        seen = {rule.attribute: rule(image, asked) for rule in self.colors if look[rule.attribute] != "none"}
        hits = {name: value == look[name] for name, value in seen.items() if value is not None}
        return hits | {name: value == asked_value(name, look) for name, value in self.looks(image, parsed).items()}


class AttributeAccuracy:
    """Shares of pictures that show what their looks name."""

    def __init__(self, rules: AttributeRules):
        self.rules = rules
        self.hits: dict[str, list[bool]] = {}

    def update(self, image: np.ndarray, asked: np.ndarray, parsed: np.ndarray, look: dict[str, str]) -> None:
        for name, hit in self.rules.hits(image, asked, parsed, look).items():
            self.hits.setdefault(name, []).append(hit)

    def compute(self) -> dict[str, dict[str, float]]:
        return {name: {"count": len(hits), "accuracy": float(np.mean(hits))} for name, hits in self.hits.items()}
