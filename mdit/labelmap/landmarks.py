"""Label maps from the landmarks of MediaPipe's face mesh, as the host's detector gives them."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from .classes import class_id

# Vertices of the face mesh around each part, in the order in which the parts are painted. "left" is the person's.
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


def from_landmarks(frames: Sequence[Sequence[np.ndarray]], background: torch.Tensor) -> torch.Tensor:
    """Paints faces over label maps.

    frames: for each picture its faces, each the (x, y) in pixels of at least 468 vertices, (N, 2).
    background: (B, H, W) uint8 class ids, B the number of frames or 1.
    Returns (B, H, W) uint8. Hair, ears, neck and clothes have no landmarks: there the background stays.
    """
    maps = background.cpu().numpy()
    if len(maps) == 1:
        maps = maps.repeat(len(frames), axis=0)
    return torch.from_numpy(np.stack([_painted(faces, labels) for faces, labels in zip(frames, maps, strict=True)]))


def _painted(faces: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(labels)
    draw = ImageDraw.Draw(picture)
    for face in faces:
        for name, outline in OUTLINES.items():
            draw.polygon([tuple(point) for point in face[list(outline)].tolist()], fill=class_id(name))
    return np.asarray(picture)
