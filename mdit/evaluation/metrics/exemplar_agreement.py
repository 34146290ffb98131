"""How much of an exemplar's colours a picture shows, beside what it shows of other exemplars' by chance."""
from __future__ import annotations

import numpy as np

from ..colors import MIN_PIXELS, PARTS, part_pixels

LEVELS = 255


def part_colors(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Mean colours (parts, 3) in 0..255 of a picture (H, W, 3) uint8; nan for a part that is too small to judge."""
    found = [part_pixels(image, label, attribute) for attribute in PARTS]
    return np.stack([LEVELS * pixels.mean(0) if len(pixels) >= MIN_PIXELS else np.full(3, np.nan) for pixels in found])


class ExemplarAgreement:
    """Distances of the parts' mean colours in levels of 255, of each picture to its exemplar and to all others.

    What the target's map alone gives away is as near to the other exemplars: only what is nearer to the own one has
    come from there.
    """

    def __init__(self):
        self.made, self.exemplars = [], []

    def update(self, picture: np.ndarray, asked: np.ndarray, exemplar: np.ndarray, exemplar_label: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 of the asked map (H, W), and its exemplar with the exemplar's map."""
        self.made.append(part_colors(picture, asked))
        self.exemplars.append(part_colors(exemplar, exemplar_label))

    def compute(self) -> dict[str, dict[str, float]]:
        """By part: `own` and `shuffled` distance, `nearer`, the share of the other exemplars that are further away than
        the own one (0.5 by chance), and the `count` of pictures; without the parts that too few pictures have."""
        made, exemplars = np.stack(self.made), np.stack(self.exemplars)  # (N, parts, 3)
        distances = np.abs(made[:, None] - exemplars[None]).mean(-1)  # (N, N, parts)
        tables = {name: distances[..., k] for k, name in enumerate(PARTS)}
        return {name: summary(table) for name, table in tables.items() if np.isfinite(table.diagonal()).sum() > 1}


def summary(distances: np.ndarray) -> dict[str, float]:
    """Of distances (N, N) of pictures to exemplars, the own one's on the diagonal; nan where one lacks the part."""
    known = np.isfinite(distances.diagonal())
    distances = distances[known][:, known]
    own, others = distances.diagonal(), ~np.eye(len(distances), dtype=bool)
    nearer = (own[:, None] < distances)[others]
    return {"own": float(own.mean()), "shuffled": float(distances[others].mean()), "nearer": float(nearer.mean()),
            "count": len(own)}
