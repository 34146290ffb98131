"""The tilt of faces: how far the line through the eyes is turned, clockwise, in degrees."""
from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..labelmap import find_class, resize_nearest, to_indices
from ..labelmap.faces import MOUTH
from ..labelmap.landmarks import OUTLINES, read_landmarks
from ..shared.keypoints import LEFT_EYE, RIGHT_EYE, NoPerson, Reading, list_frames, list_people, read_person

SOURCE = "tilt"  # the input of the node
Size = tuple[int, int]  # height, width


class Eyes(NamedTuple):
    """x and y, in pixels, of the person's right and left eye."""
    right: np.ndarray
    left: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        return (self.right + self.left) / 2

    @property
    def tilt(self) -> float:
        x, y = self.left - self.right
        return round(math.degrees(math.atan2(y, x)), 2)


def find_tilts(source: Any, boxes: Sequence[Sequence[dict]], size: Size) -> list[list[float | None]]:
    """The tilt of the face in each box of each image; None where no eyes are found.

    source: the host's FACE_LANDMARKS or POSE_KEYPOINT, or label maps (B, h, w, 3) of the images of `size`.
    Raises ValueError, naming the node's input, for a source of another number of images.
    """
    if isinstance(source, Tensor):
        images = resize_nearest(read_classes(source), *size).cpu().numpy()
        find_eyes = find_labelled_eyes
    else:
        images = list_eyes(source, size)
        find_eyes = choose_eyes
    if len(images) not in (1, len(boxes)):
        raise ValueError(f"{SOURCE}: it shows {len(images)} images, but there are {len(boxes)} images. Connect the "
                         "landmarks, key points or label maps of the same images")
    tilts = []
    for number, found in enumerate(boxes):
        eyes = [find_eyes(images[number % len(images)], box) for box in found]
        tilts.append([pair.tilt if pair else None for pair in eyes])
    return tilts


def read_classes(label_maps: Tensor) -> Tensor:
    """Class indices (B, h, w) of label maps (B, h, w, 3). Errors name the node's input."""
    try:
        return to_indices(label_maps)
    except ValueError as error:
        raise ValueError(str(error).replace("label_map:", f"{SOURCE}:", 1)) from error


def find_labelled_eyes(labels: np.ndarray, box: dict) -> Eyes | None:
    """The eyes in a box of a label map (H, W), or else its brows.

    Parsers take the left for the right on tilted faces, so the mouth, where there is one, tells which is which.
    """
    left, top = (max(0, round(box[field])) for field in ("x", "y"))
    inside = labels[top:round(box["y"] + box["height"]), left:round(box["x"] + box["width"])]
    pair = find_pair(inside, "eye") or find_pair(inside, "brow")
    mouth = find_middle(inside, *MOUTH)
    if pair is None or mouth is None:
        return pair
    across = pair.left - pair.right
    down = mouth - pair.middle
    is_swapped = across[0] * down[1] < across[1] * down[0]
    return Eyes(pair.left, pair.right) if is_swapped else pair


def find_pair(labels: np.ndarray, part: str) -> Eyes | None:
    """The person's right and left eye or brow; None if a label map lacks one of the two."""
    right = find_middle(labels, f"r_{part}")
    left = find_middle(labels, f"l_{part}")
    return None if right is None or left is None else Eyes(right, left)


def find_middle(labels: np.ndarray, *names: str) -> np.ndarray | None:
    """x and y of the mean pixel of some classes; None if no pixel has one of them."""
    rows, columns = np.nonzero(np.isin(labels, [find_class(name) for name in names]))
    return np.array([columns.mean(), rows.mean()]) if len(rows) else None


def choose_eyes(faces: Sequence[Eyes], box: dict) -> Eyes | None:
    """The eyes in a box whose middle is nearest to the middle of the box."""
    corner = np.array([box["x"], box["y"]])
    half = np.array([box["width"], box["height"]]) / 2
    offsets = [np.abs(pair.middle - corner - half) for pair in faces]
    inside = [i for i, offset in enumerate(offsets) if (offset <= half).all()]
    return faces[min(inside, key=lambda i: offsets[i].sum())] if inside else None


def list_eyes(source: Any, size: Size) -> list[list[Eyes]]:
    """The eyes of all faces of each image, from FACE_LANDMARKS or POSE_KEYPOINT."""
    height, width = size
    if isinstance(source, dict) and "frames" in source:
        (h, w), frames = read_landmarks(source, SOURCE)
        scale = np.array([width / w, height / h])
        return [list_meshes(faces, scale) for faces in frames]
    scale = np.array([width, height])
    return [read_people(frame, number, scale) for number, frame in enumerate(list_frames(source, SOURCE))]


def list_meshes(faces: Sequence[np.ndarray], scale: np.ndarray) -> list[Eyes]:
    """The eyes of the face meshes of an image."""
    found = []
    for face in faces:
        vertices = face * scale  # (V, 2)
        right, left = (vertices[list(OUTLINES[name])].mean(0) for name in ("r_eye", "l_eye"))
        found.append(Eyes(right, left))
    return found


def read_people(frame: dict, number: int, scale: np.ndarray) -> list[Eyes]:
    """The eyes of each person of a frame who shows both."""
    found = []
    for person in range(len(list_people(frame, number, SOURCE))):
        with suppress(NoPerson):
            points = read_person(frame, person, number, Reading(SOURCE))
            pair = points[RIGHT_EYE], points[LEFT_EYE]
            if None not in pair:
                found.append(Eyes(*(scale * point for point in pair)))
    return found
