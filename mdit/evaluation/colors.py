"""Reads the colours of a face's parts from an image, by the nearest centroid of the pixels' statistics."""
from __future__ import annotations

import numpy as np

from ..labelmap import CLASSES

PARTS = {"hair_color": ("hair",), "clothes_color": ("cloth",), "background_color": ("background",),
         "hat_color": ("hat",), "skin_tone": ("skin", "nose")}
MIN_PIXELS = 40  # of a part; smaller ones are not judged
SMALLEST_PART = MIN_PIXELS / 128 ** 2  # of an image, for rules that read images of any size


def select_part_pixels(image: np.ndarray, label: np.ndarray, attribute: str) -> np.ndarray:
    """Pixels (n, 3) in 0..1 of the part whose colour is the attribute."""
    classes = [CLASSES.index(name) for name in PARTS[attribute]]
    return image[np.isin(label, classes)] / 255.0


def compute_quartiles(pixels: np.ndarray) -> np.ndarray:
    """(9,): three quartiles of each channel."""
    return np.quantile(pixels, (0.25, 0.5, 0.75), axis=0).ravel()


class ColorRule:
    """Names the colour of one part. Fitted on renders, whose colours are known."""

    def __init__(self, attribute: str, images: np.ndarray, labels: np.ndarray, appearances: list[dict[str, str]]):
        self.attribute = attribute
        values = []
        features = []
        for image, label, appearance in zip(images, labels, appearances):
            pixels = select_part_pixels(image, label, attribute)
            if appearance[attribute] != "none" and len(pixels) >= SMALLEST_PART * label.size:
                values.append(appearance[attribute])
                features.append(compute_quartiles(pixels))
        values = np.array(values)
        x = np.stack(features)  # (n, 9)
        self.names = sorted(set(values))
        self.centroids = np.stack([x[values == name].mean(0) for name in self.names])
        residual = x - self.centroids[np.searchsorted(self.names, values)]
        self.precision = np.linalg.inv(np.cov(residual.T) + 1e-4 * np.eye(x.shape[1]))

    def __call__(self, image: np.ndarray, label: np.ndarray) -> str | None:
        """The colour's name. None if the part is too small."""
        pixels = select_part_pixels(image, label, self.attribute)
        if len(pixels) < SMALLEST_PART * label.size:
            return None
        difference = compute_quartiles(pixels) - self.centroids  # (names, 9)
        return self.names[np.einsum("nf,fg,ng->n", difference, self.precision, difference).argmin()]

    def measure_accuracy(self, images: np.ndarray, labels: np.ndarray, appearances: list[dict[str, str]]
                         ) -> dict[str, float]:
        """Fraction of the images in which the part has the colour that the appearance names."""
        hits = []
        for image, label, appearance in zip(images, labels, appearances):
            if appearance[self.attribute] == "none":
                continue
            seen = self(image, label)
            if seen is not None:
                hits.append(seen == appearance[self.attribute])
        return {"count": len(hits), "accuracy": float(np.mean(hits))}
