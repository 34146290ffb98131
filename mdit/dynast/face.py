"""The label of a face, 15 channels: edges, distances to the outlines of 13 parts, those outlines (spec section 4)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ..labelmap import find_class
from .canny import canny
from .label import Label, check_size, distances, stacked
from .pictures import to_bytes

PARTS = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "l_ear", "r_ear", "nose", "u_lip", "mouth", "l_lip", "eye_g",
         "hair")
ON_SKIN = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "u_lip", "mouth", "l_lip")


def face_label(picture: np.ndarray, parts: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The label (15, S, S) uint8 of a picture (H, W, 3) uint8 and its 13 parts (h, w) bool in the order of PARTS.

    Edges of the picture count outside the face alone: inside the parts but hair, their outlines do.
    """
    parts = [resized(part, size) for part in parts]
    outlines = [outline(part) for part in parts]
    around = parts[-1] | ~np.any(parts[:-1], axis=0)
    edges = np.any(outlines, axis=0)
    both = edges | (canny(luma(picture, size)) & around)
    return np.stack([255 * both.astype(np.uint8), *map(distances, outlines), 255 * edges.astype(np.uint8)])


def resized(part: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(part.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(picture) > 0


def luma(picture: np.ndarray, size: int) -> np.ndarray:
    """(S, S) uint8."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR).convert("L"))


def outline(part: np.ndarray) -> np.ndarray:
    """Both pixels of each pair of neighbours that differ."""
    marked = np.zeros_like(part)
    rows, columns = part[1:] != part[:-1], part[:, 1:] != part[:, :-1]
    marked[1:] |= rows
    marked[:-1] |= rows
    marked[:, 1:] |= columns
    marked[:, :-1] |= columns
    return marked


def from_label_maps(pictures: Tensor, maps: Tensor, size: int) -> Label:
    """Labels of pictures (B, H, W, 3) in 0..1 and their label maps (B, h, w) uint8; a batch of one serves all.

    Raises ValueError, which names the node's input, for a map without a face and batches that do not fit.
    """
    check_size(size)
    batch = max(len(pictures), len(maps))
    if 0 in pictures.shape or {len(pictures), len(maps)} - {1, batch}:
        raise ValueError(f"image: {len(pictures)} pictures for {len(maps)} label maps: give one, or as many, of each")
    parts = [parts_of(labels, number) for number, labels in enumerate(maps.cpu().numpy())]
    return stacked((face_label(to_bytes(pictures[i % len(pictures)]), parts[i % len(parts)], size)
                    for i in range(batch)), batch)


def parts_of(labels: np.ndarray, number: int) -> list[np.ndarray]:
    """The parts (h, w) bool of a label map; the skin lies under what is on it, as in the training data."""
    skin = np.isin(labels, [find_class(name) for name in ON_SKIN])
    if not skin.any():
        raise ValueError(f"label_map: map {number} shows no face, no pixel of it is one of {', '.join(ON_SKIN)}: use a "
                         "picture of a face that the parser finds, or paint one")
    return [skin, *(labels == find_class(name) for name in PARTS[1:])]
