"""Label maps from the landmarks of MediaPipe's face mesh, in the form of the host's detector."""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .classes import find_class

VERTICES = 468  # of a face mesh, at least
LONGEST_SIDE = 16384  # pixels
FARTHEST = 10  # images
# Vertices of the face mesh around each class, in the order of painting. "left" is the person's left side.
OUTLINES = {
    "skin": (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176,
             149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    "nose": (168, 351, 399, 420, 429, 279, 331, 294, 327, 326, 2, 97, 98, 64, 102, 49, 209, 198, 174, 122),
    "l_brow": (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
    "r_brow": (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    "l_eye": (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    "r_eye": (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    "mouth": (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
    "u_lip": (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191, 78),
    "l_lip": (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95, 78),
}


def read_landmarks(value: Any, source: str) -> tuple[tuple[int, int], list[list[np.ndarray]]]:
    """Height and width of the images of FACE_LANDMARKS, and for each image its faces: (x, y) in pixels, (V, 2).

    Raises ValueError, naming the input `source`, for a value of another form.
    """
    try:
        height, width = map(int, value["image_size"])
        frames = []
        for faces in value["frames"]:
            frames.append([np.asarray(face["landmarks_xy"], float) for face in faces])
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{source}: it has another form than image_size and frames with landmarks_xy: connect 'Detect "
                         "Face Landmarks (MediaPipe)'") from error
    if not (frames and 0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        raise ValueError(f"{source}: it shows {len(frames)} images of {width} x {height} pixels: connect landmarks of "
                         "at least one image")
    for face in itertools.chain(*frames):
        if face.ndim != 2 or face.shape[1] != 2 or len(face) < VERTICES or not is_near(face, max(height, width)):
            raise ValueError(f"{source}: a face has points {face.shape}, of which some may lie far away: connect "
                             f"landmarks with {VERTICES} vertices from 'Detect Face Landmarks (MediaPipe)'")
    return (height, width), frames


def is_near(points: np.ndarray, side: int) -> bool:
    """Whether no point is farther away than some images: drawing takes as long as the outlines."""
    return bool((np.abs(points) <= FARTHEST * side).all())


def from_landmarks(frames: Sequence[Sequence[np.ndarray]], background: torch.Tensor) -> torch.Tensor:
    """Paint faces over label maps.

    frames: for each image its faces; a face is the (x, y) in pixels of at least 468 vertices, (V, 2).
    background: (B, H, W) uint8 class indices, B the number of frames or 1.
    Returns (B, H, W) uint8. Hair, ears, neck and clothes have no landmarks: there the background stays.
    """
    maps = background.cpu().numpy()
    if len(maps) == 1:
        maps = maps.repeat(len(frames), axis=0)
    painted = [_paint_faces(faces, labels) for faces, labels in zip(frames, maps, strict=True)]
    return torch.from_numpy(np.stack(painted))


def _paint_faces(faces: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """A copy of the label map (H, W) with the faces painted on it."""
    canvas = Image.fromarray(labels)
    draw = ImageDraw.Draw(canvas)
    for face in faces:
        for name, outline in OUTLINES.items():
            points = map(tuple, face[list(outline)].tolist())
            draw.polygon(list(points), fill=find_class(name))
    return np.asarray(canvas)
