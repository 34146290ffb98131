"""Reads the colour of a picture's parts by a rule: the nearest centroid of the part's pixel statistics."""
from __future__ import annotations

import numpy as np

from ..labelmap import CLASSES

PARTS = {"hair_color": ("hair",), "clothes_color": ("cloth",), "background_color": ("background",),
         "hat_color": ("hat",), "skin_tone": ("skin", "nose")}
MIN_PIXELS = 40  # of a 128 px picture; smaller parts are not judged


def part_pixels(image: np.ndarray, label: np.ndarray, attribute: str) -> np.ndarray:
    """Pixels (n, 3) in 0..1 of the part that an attribute colours."""
    return image[np.isin(label, [CLASSES.index(name) for name in PARTS[attribute]])] / 255.0


def statistics(pixels: np.ndarray) -> np.ndarray:
    """(9,): quartiles of each channel."""
    return np.quantile(pixels, (0.25, 0.5, 0.75), axis=0).ravel()


class ColorRule:
    """Names the colour of one part. Fitted on renders, whose colours are known."""

    def __init__(self, attribute: str, images: np.ndarray, labels: np.ndarray, looks: list[dict[str, str]]):
        self.attribute = attribute
        pairs = [(look[attribute], pixels) for image, label, look in zip(images, labels, looks)
                 if look[attribute] != "none" and len(pixels := part_pixels(image, label, attribute)) >= MIN_PIXELS]
        values = np.array([value for value, _ in pairs])
        x = np.stack([statistics(pixels) for _, pixels in pairs])  # (n, 9)
        self.names = sorted(set(values))
        self.centroids = np.stack([x[values == name].mean(0) for name in self.names])
        residual = x - self.centroids[np.searchsorted(self.names, values)]
        self.precision = np.linalg.inv(np.cov(residual.T) + 1e-4 * np.eye(x.shape[1]))

    def __call__(self, image: np.ndarray, label: np.ndarray) -> str | None:
        """The colour's name; None where the part is too small."""
        pixels = part_pixels(image, label, self.attribute)
        if len(pixels) < MIN_PIXELS:
            return None
        away = statistics(pixels) - self.centroids  # (names, 9)
        return self.names[np.einsum("nf,fg,ng->n", away, self.precision, away).argmin()]

    def accuracy(self, images: np.ndarray, labels: np.ndarray, looks: list[dict[str, str]]) -> dict[str, float]:
        """Share of the pictures in which the part has the colour that its look names."""
        asked = [(self(image, label), look[self.attribute]) for image, label, look in zip(images, labels, looks)
                 if look[self.attribute] != "none"]
        hits = [seen == name for seen, name in asked if seen is not None]
        return {"count": len(hits), "accuracy": float(np.mean(hits))}
