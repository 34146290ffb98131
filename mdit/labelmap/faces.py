"""The faces of a label map: which pixels belong to whose head."""
from __future__ import annotations

import numpy as np
from scipy import ndimage

from .classes import CLASSES, find_class

NOSE = ("nose",)
BROWS = ("l_brow", "r_brow")
EYES = ("l_eye", "r_eye", "eye_g") + BROWS
MOUTH = ("mouth", "u_lip", "l_lip")
FACE = ("skin",) + NOSE + EYES + MOUTH
NEIGHBORS = np.ones((3, 3), bool)  # that connect: pixels that touch by a corner, too
SMALLEST_NOSE = 0.2  # of the largest nose's pixels
NEAREST_NOSES = 1.5  # of the nose's longer side, between the noses of two faces
SMALLEST_FACE = 0.1  # of the largest face's pixels, of one without a nose that counts


def split_faces(labels: np.ndarray) -> np.ndarray:
    """The number of the face, from 1 at the left, of each pixel of a label map (H, W); 0 in the background.

    Every nose that is not small beside the largest is a face, and so is every large area of skin with eyes and mouth
    and none of these noses. Figures that touch are divided half way between their faces. Parts that lie apart belong to
    the nearest face. A label map with one face or none is one figure.
    """
    noses = find_noses(labels)
    faces = sorted(noses + find_noseless(labels, noses), key=lambda face: face[1])
    if len(faces) < 2:
        return (labels > 0).astype(np.int16)
    figures, _ = ndimage.label(labels > 0, NEIGHBORS)  # (H, W)
    own = np.zeros(figures.max() + 1, bool)  # whether a figure has a face
    own[[figures[face] for face in faces]] = True
    is_apart = ~own[figures]
    rows, columns = np.ogrid[:labels.shape[0], :labels.shape[1]]
    nearest = np.full(labels.shape, np.inf, np.float32)
    owners = np.zeros(labels.shape, np.int16)
    for number, (y, x) in enumerate(faces, 1):
        away = np.hypot(rows - np.float32(y), columns - np.float32(x))
        closer = (away < nearest) & (is_apart | (figures == figures[y, x]))
        nearest[closer] = away[closer]
        owners[closer] = number
    owners[labels == 0] = 0
    return owners


def find_noses(labels: np.ndarray) -> list[tuple[int, int]]:
    """A pixel of each nose, row and column. What glasses cut off a nose is none."""
    parts, _ = ndimage.label(select(labels, NOSE), NEIGHBORS)
    sizes = np.bincount(parts.ravel())[1:]
    boxes = ndimage.find_objects(parts)
    found: list[tuple[int, int]] = []
    for k in sizes.argsort()[::-1]:
        y, x = find_center(parts, k + 1, boxes[k])
        apart = NEAREST_NOSES * max(side.stop - side.start for side in boxes[k])
        if sizes[k] >= SMALLEST_NOSE * sizes.max() and all(np.hypot(y - r, x - c) > apart for r, c in found):
            found.append((y, x))
    return found


def find_noseless(labels: np.ndarray, noses: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """A pixel of each large face with eyes and mouth that has none of the noses, given by a pixel of each."""
    parts, _ = ndimage.label(select(labels, FACE), NEIGHBORS)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    is_face = sizes >= max(1, SMALLEST_FACE * sizes.max())
    for names in (EYES, MOUTH):
        is_face &= np.bincount(parts[select(labels, names)], minlength=len(sizes)) > 0
    is_face[[parts[nose] for nose in noses]] = False
    boxes = ndimage.find_objects(parts)
    return [find_center(parts, number, boxes[number - 1]) for number in np.flatnonzero(is_face)]


def find_center(parts: np.ndarray, number: int, box: tuple[slice, slice]) -> tuple[int, int]:
    """Row and column of the pixel of a part, which lies in a box of (H, W), that is nearest to the part's middle."""
    places = np.argwhere(parts[box] == number)
    away = ((places - places.mean(0)) ** 2).sum(1)
    y, x = places[away.argmin()]
    return int(box[0].start + y), int(box[1].start + x)


def select(labels: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The pixels (H, W) of some classes."""
    chosen = np.zeros(len(CLASSES), bool)
    chosen[[find_class(name) for name in names]] = True
    return chosen[labels]
