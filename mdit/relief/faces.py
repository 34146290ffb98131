"""The faces of a label map, and the square that the network sees of each (docs/design/control-maps.md, section 2)."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..labelmap import find_class

SKIN, NOSE = find_class("skin"), find_class("nose")
NEIGHBORS = np.ones((3, 3), bool)  # that connect: pixels that touch by a corner, too
SMALLEST_NOSE = 0.2  # of the largest nose's pixels
NEAREST_NOSES = 1.5  # of the nose's longer side, between the noses of two faces
SMALLEST_FIGURE = 0.1  # of the largest figure's pixels, of one without a nose
FILLED = 0.6  # of the map's longer side, from which a figure needs no closer view
MARGIN = 1.1  # side of a closer view, in units of the figure's longer side


class Square(NamedTuple):
    """A square of pixels, which may reach beyond the map."""
    top: int
    left: int
    side: int


def split_faces(labels: np.ndarray) -> np.ndarray:
    """The number of the face, from 1, of each pixel of a label map (H, W); 0 in the background.

    Every nose is a face, and so is every large figure with skin and no nose. Figures that touch are divided half way
    between their noses. Parts that lie apart belong to the nearest face.
    """
    figures, count = ndimage.label(labels > 0, NEIGHBORS)  # (H, W)
    noses = find_noses(labels)
    faces = [(figures[y, x], y, x) for y, x in noses] + find_noseless(labels, figures, count, noses)
    if len(faces) < 2:
        return (labels > 0).astype(np.int16)
    rows, columns = np.nonzero(labels)
    away = np.stack([(rows - y) ** 2 + (columns - x) ** 2 for _, y, x in faces])  # (faces, pixels)
    own = np.array([face[0] for face in faces])[:, None]
    at = figures[rows, columns]
    occupied = np.isin(at, own)
    owners = np.zeros(labels.shape, np.int16)
    owners[rows, columns] = np.where((own == at) | ~occupied, away, np.inf).argmin(0) + 1
    return owners


def find_noses(labels: np.ndarray) -> list[tuple[int, int]]:
    """A pixel of each nose, row and column. What glasses cut off a nose is none."""
    parts, count = ndimage.label(labels == NOSE, NEIGHBORS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    found: list[tuple[int, int]] = []
    boxes = ndimage.find_objects(parts)
    for number in sizes[1:].argsort()[::-1] + 1:
        rows, columns = np.nonzero(parts == number)
        apart = NEAREST_NOSES * max(side.stop - side.start for side in boxes[number - 1])
        y, x = rows[len(rows) // 2], columns[len(rows) // 2]
        far = all(np.hypot(y - other[0], x - other[1]) > apart for other in found)
        if far and sizes[number] >= SMALLEST_NOSE * sizes[1:].max():
            found.append((int(y), int(x)))
    return found


def find_noseless(labels: np.ndarray, figures: np.ndarray, count: int, noses: list[tuple[int, int]]
                  ) -> list[tuple[int, int, int]]:
    """Number, row and column of each large figure (H, W) with skin that has no nose."""
    sizes = np.bincount(figures.ravel(), minlength=count + 1)
    skin = np.bincount(figures[labels == SKIN], minlength=count + 1)
    known = {figures[place] for place in noses}
    found = []
    for number in range(1, count + 1):
        if number not in known and skin[number] and sizes[number] >= SMALLEST_FIGURE * sizes[1:].max():
            rows, columns = np.nonzero((figures == number) & (labels == SKIN))
            found.append((number, int(rows.mean()), int(columns.mean())))
    return found


def choose_square(figure: np.ndarray) -> Square:
    """What the network sees of a figure (H, W): the whole map, or a closer view of a small figure."""
    height, width = figure.shape
    rows, columns = (np.flatnonzero(figure.any(axis)) for axis in (1, 0))
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    whole = max(height, width)
    if extent >= FILLED * whole:
        return Square((height - whole) // 2, (width - whole) // 2, whole)
    side = int(np.ceil(MARGIN * extent))
    return Square(int(rows[0] + rows[-1] + 1 - side) // 2, int(columns[0] + columns[-1] + 1 - side) // 2, side)
