"""The label of a face: 15 channels with edges, distances to the outlines of 13 parts, and these outlines.

See docs/design/dynast.md, section 4.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ..labelmap import find_class
from .canny import find_edges
from .label import Label, check_size, measure_distances, stack_labels, to_uint8

PARTS = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "l_ear", "r_ear", "nose", "u_lip", "mouth", "l_lip", "eye_g",
         "hair")
ON_SKIN = ("skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "nose", "u_lip", "mouth", "l_lip")


def build_face_label(image: np.ndarray, parts: Sequence[np.ndarray], size: int) -> np.ndarray:
    """The label (15, S, S) uint8 of an image (H, W, 3) uint8 and its 13 parts (h, w) bool in the order of PARTS.

    Edges of the image count only outside the face, and in the hair. Inside the other parts only outlines count.
    """
    parts = [resize_part(part, size) for part in parts]
    outlines = [mark_outline(part) for part in parts]
    outside = parts[-1] | ~np.any(parts[:-1], axis=0)
    part_edges = np.any(outlines, axis=0)
    all_edges = part_edges | (find_edges(to_luma(image, size)) & outside)
    distances = [measure_distances(outline) for outline in outlines]
    return np.stack([255 * all_edges.astype(np.uint8), *distances, 255 * part_edges.astype(np.uint8)])


def resize_part(part: np.ndarray, size: int) -> np.ndarray:
    resized = Image.fromarray(part.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.asarray(resized) > 0


def to_luma(image: np.ndarray, size: int) -> np.ndarray:
    """(S, S) uint8."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR).convert("L"))


def mark_outline(part: np.ndarray) -> np.ndarray:
    """Both pixels of each pair of neighbors that differ."""
    rows = part[1:] != part[:-1]
    columns = part[:, 1:] != part[:, :-1]
    marked = np.zeros_like(part)
    marked[1:] |= rows
    marked[:-1] |= rows
    marked[:, 1:] |= columns
    marked[:, :-1] |= columns
    return marked


def from_label_maps(images: Tensor, label_maps: Tensor, size: int, passes: bool = False) -> Label:
    """Labels of images (B, H, W, 3) in 0..1 and their label maps (B, h, w) uint8; a batch of one serves all.

    passes: whether a label map without a face gives a label with the image's edges alone, instead of an error.
    Raises ValueError, naming the input of the node, for a label map without a face and batches that do not fit.
    """
    check_size(size)
    batch = max(len(images), len(label_maps))
    if 0 in images.shape or {len(images), len(label_maps)} - {1, batch}:
        raise ValueError(f"image: {len(images)} images for {len(label_maps)} label maps: give one, or as many, of each")
    parts = [split_parts(classes) for classes in label_maps.cpu().numpy()]
    if not passes:
        for number, each in enumerate(parts):
            require_face(each, number)
    labels = (build_face_label(to_uint8(images[i % len(images)]), parts[i % len(parts)], size) for i in range(batch))
    return stack_labels(labels, batch)


def split_parts(classes: np.ndarray) -> list[np.ndarray]:
    """The parts (h, w) bool of a label map. The skin continues under what lies on it, as in the training data."""
    skin = np.isin(classes, [find_class(name) for name in ON_SKIN])
    return [skin, *(classes == find_class(name) for name in PARTS[1:])]


def require_face(parts: list[np.ndarray], number: int) -> None:
    """Raises ValueError for the parts of a label map, the one of this number, without skin."""
    if not parts[0].any():
        raise ValueError(f"label_map: label map {number} shows no face: none of its pixels is one of "
                         f"{', '.join(ON_SKIN)}: use an image with a face that the parser finds, or paint a face")
