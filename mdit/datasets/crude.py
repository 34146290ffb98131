"""Crude polygons in place of a label map's parts, as people paint them."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ..labelmap import find_class

BACK_TO_FRONT = tuple(map(find_class, (
    "cloth", "hair", "neck", "ear_r", "l_ear", "r_ear", "skin", "neck_l", "hat", "l_brow", "r_brow", "eye_g", "l_eye",
    "r_eye", "nose", "mouth", "u_lip", "l_lip")))
CORNERS = 12  # of a small part
MANY_CORNERS = 24
LARGE = 0.03  # fraction of the map from which a part has many corners
SMALLEST = 2e-4  # fraction of the map; smaller parts are left out


def draw_crude(labels: np.ndarray) -> np.ndarray:
    """A label map (S, S) uint8 whose connected parts are polygons around their centres, painted from back to front."""
    canvas = Image.new("L", labels.shape[::-1])
    pen = ImageDraw.Draw(canvas)
    for index in BACK_TO_FRONT:
        parts, count = ndimage.label(labels == index)
        for number in range(1, count + 1):
            rows, columns = np.nonzero(parts == number)
            if len(rows) >= SMALLEST * labels.size:
                corners = MANY_CORNERS if len(rows) > LARGE * labels.size else CORNERS
                pen.polygon(find_corners(columns, rows, corners), fill=index)
    return np.array(canvas)


def find_corners(x: np.ndarray, y: np.ndarray, count: int) -> list[tuple[float, float]]:
    """The farthest of the points in each direction from their centre, where there is one."""
    dx, dy = x - x.mean(), y - y.mean()
    sector = ((np.arctan2(dy, dx) / (2 * np.pi) % 1) * count).astype(int) % count
    radius = np.hypot(dx, dy)
    corners = []
    for k in range(count):
        inside = np.flatnonzero(sector == k)
        if len(inside):
            farthest = inside[radius[inside].argmax()]
            corners.append((float(x[farthest]), float(y[farthest])))
    return corners if len(corners) > 1 else [(float(x[0]), float(y[0]))] * 2
