"""How much an image takes over from the colours of its exemplar.

Two distances, because two sets of published figures were measured with them. `ExemplarAgreement` takes mean colours and
their mean absolute difference (docs/training/dynast.md). `measure_color_distances` takes median colours, which strands
of other classes do not shift, as RGB vectors (docs/training/exemplar.md).
"""
from __future__ import annotations

import numpy as np

from ..colors import MIN_PIXELS, PARTS, select_part_pixels

LEVELS = 255


def compute_median_colors(image: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Median colour (3,) in 0..255 of each part of an image (S, S, 3) uint8 that is large enough."""
    pixels = {part: select_part_pixels(image, labels, part) for part in PARTS}
    return {part: np.median(found, axis=0) * LEVELS for part, found in pixels.items() if len(found) >= MIN_PIXELS}


def measure_color_distances(image: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray
                           ) -> dict[str, float]:
    """Lengths of the differences between the median RGB colours of the parts that both images have, in 0..255."""
    ours = compute_median_colors(image, labels)
    theirs = compute_median_colors(other, other_labels)
    return {part: float(np.linalg.norm(ours[part] - theirs[part])) for part in ours if part in theirs}


def compute_mean_colors(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean colours (parts, 3) in 0..255 of an image (H, W, 3) uint8; nan for a part that is too small to judge."""
    colors = np.full((len(PARTS), 3), np.nan)
    for row, part in zip(colors, PARTS):
        pixels = select_part_pixels(image, labels, part)
        if len(pixels) >= MIN_PIXELS:
            row[:] = LEVELS * pixels.mean(0)
    return colors


class ExemplarAgreement:
    """Distances between the parts' mean colours of images and exemplars, in levels of 255.

    An image whose label map alone decides its colours is as near to the other exemplars as to its own. Only a smaller
    distance to its own exemplar shows that colours were taken over.
    """

    def __init__(self):
        self.generated = []
        self.exemplars = []

    def update(self, image: np.ndarray, asked: np.ndarray, exemplar: np.ndarray, exemplar_labels: np.ndarray) -> None:
        """Adds an image (H, W, 3) uint8 with the asked map (H, W), and its exemplar with the exemplar's map."""
        self.generated.append(compute_mean_colors(image, asked))
        self.exemplars.append(compute_mean_colors(exemplar, exemplar_labels))

    def compute(self) -> dict[str, dict[str, float]]:
        """Distances by part, without the parts that fewer than two images have.

        own: to the image's exemplar. shuffled: to the other exemplars. nearer: fraction of the other exemplars that are
        further away than the own one (0.5 by chance). count: of the images.
        """
        generated = np.stack(self.generated)  # (N, parts, 3)
        exemplars = np.stack(self.exemplars)
        distances = np.abs(generated[:, None] - exemplars[None]).mean(-1)  # (N, N, parts)
        tables = {name: distances[..., k] for k, name in enumerate(PARTS)}
        return {name: summarize_distances(table) for name, table in tables.items()
                if np.isfinite(table.diagonal()).sum() > 1}


def summarize_distances(distances: np.ndarray) -> dict[str, float]:
    """Figures of distances (N, N) from images to exemplars, own exemplars on the diagonal; nan for a missing part."""
    known = np.isfinite(distances.diagonal())
    distances = distances[known][:, known]
    own = distances.diagonal()
    others = ~np.eye(len(distances), dtype=bool)
    nearer = (own[:, None] < distances)[others]
    return {"own": float(own.mean()), "shuffled": float(distances[others].mean()), "nearer": float(nearer.mean()),
            "count": len(own)}
