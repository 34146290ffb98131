"""The label of a pose: 20 channels, 3 with a drawing and 17 with the distances to the limbs.

See docs/design/dynast.md, section 5.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..shared.keypoints import POINTS, NoPerson, Point, Reading, list_frames, read_person
from .label import Label, check_size, measure_distances, stack_labels

DRAWING = 256  # side in pixels of the drawings in training: radii are absolute
COLORS = np.array([  # RGB, of a point and of the limb of the same number
    (0, 0, 255), (0, 85, 255), (0, 170, 255), (0, 255, 255), (0, 255, 170), (0, 255, 85), (0, 255, 0), (85, 255, 0),
    (170, 255, 0), (255, 255, 0), (255, 170, 0), (255, 85, 0), (255, 0, 0), (255, 0, 85), (255, 0, 170), (255, 0, 255),
    (170, 0, 255), (85, 0, 255)], np.uint8)
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
         (0, 14), (14, 16), (0, 15), (15, 17))  # pairs of COCO's 18 points in OpenPose's order
DISC = {-4: 0, -3: 2, -2: 3, -1: 3, 0: 4, 1: 3, 2: 3, 3: 2, 4: 0}  # half-width of a point in each row
THICKNESS = 4  # half of a limb's
OPACITY = 0.6
SINES = np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32)  # rounded as in OpenCV


def build_pose_label(points: Sequence[Point], height: int, width: int, size: int) -> np.ndarray:
    """The label (20, S, S) uint8 of 18 points on a canvas (height, width)."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for point, color in zip(points, COLORS):
        if point is not None:
            canvas[draw_disc(point, height, width)] = color
    masks = [draw_limb(points[a], points[b], height, width) for a, b in LIMBS]
    for mask, color in zip(masks, COLORS):
        if mask.any():
            painted = np.where(mask[..., None], color, canvas)
            canvas = np.rint((1 - OPACITY) * canvas + OPACITY * painted).astype(np.uint8)
    drawing = np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.NEAREST))  # (S, S, 3)
    distances = [resize_distances(measure_distances(mask), size) for mask in masks]
    return np.stack([*drawing.transpose(2, 0, 1), *distances])


def resize_distances(distances: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(distances).resize((size, size), Image.Resampling.BILINEAR))


def draw_disc(point: Point, height: int, width: int) -> np.ndarray:
    """(H, W) bool."""
    x, y = map(int, point)
    mask = np.zeros((height, width), bool)
    for dy, reach in DISC.items():
        if 0 <= y + dy < height:
            mask[y + dy, max(0, x - reach):max(0, x + reach + 1)] = True
    return mask


def draw_limb(a: Point, b: Point, height: int, width: int) -> np.ndarray:
    """(H, W) bool: an ellipse from point to point; empty if a point is missing."""
    mask = np.zeros((height, width), bool)
    if a is None or b is None:
        return mask
    (x0, y0), (x1, y1) = a, b
    middle = int((x0 + x1) / 2), int((y0 + y1) / 2)
    length = np.hypot(x0 - x1, y0 - y1)
    angle = np.degrees(np.arctan2(y0 - y1, x0 - x1))
    for y, (left, right) in find_spans(trace_ellipse(middle, int(length / 2), int(angle))).items():
        if 0 <= y < height:
            mask[y, max(0, left):max(0, right + 1)] = True
    return mask


def trace_ellipse(middle: tuple[int, int], half_length: int, angle: int) -> np.ndarray:
    """The closed outline in whole pixels (361, 2) as x, y, one point for each degree."""
    degrees = np.arange(361)
    along = half_length * cosine(degrees).astype(float)
    across = THICKNESS * sine(degrees).astype(float)
    c = float(cosine(angle))
    s = float(sine(angle))
    x = middle[0] + along * c - across * s
    y = middle[1] + along * s + across * c
    return np.rint(np.stack([x, y], 1)).astype(int)


def sine(degrees):
    return SINES[degrees % 360]


def cosine(degrees):
    return SINES[(degrees + 90) % 360]


def find_spans(outline: np.ndarray) -> dict[int, tuple[int, int]]:
    """The first and last pixel in each row of a filled convex polygon, including its outline.

    If a line passes exactly between two pixels of a column or row, it takes the one nearer to its left end. If such a
    pixel ends a row, the row takes the other pixel, too.
    """
    found = {}
    for (x0, y0), (x1, y1) in zip(outline[:-1].tolist(), outline[1:].tolist()):
        if x1 < x0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        for x, y, farthest in trace_line(x1 - x0, y1 - y0):
            left, right = found.get(y0 + y, (x0 + x, x0 + x))
            found[y0 + y] = min(left, x0 + x), max(right, x0 + farthest)
    return found


def trace_line(dx: int, dy: int) -> Iterator[tuple[int, int, int]]:
    """Yields the pixels (x, y) from (0, 0) to (dx, dy), dx >= 0, each with its x rounded up."""
    steps = max(dx, abs(dy))
    sign = 1 if dy >= 0 else -1
    for i in range(steps + 1):
        if abs(dy) > dx:
            yield -((steps - 2 * i * dx) // (2 * steps)), sign * i, (2 * i * dx + steps) // (2 * steps)
        else:
            y = -((steps - 2 * i * abs(dy)) // (2 * steps)) if steps else 0
            yield i, sign * y, i


def from_keypoints(keypoints: Any, size: int, person: int = 0, reading: Reading = Reading(),
                   passes: bool = False) -> Label:
    """Labels of the host's POSE_KEYPOINT, one for each frame.

    passes: whether a frame without that person gives a label without a pose, instead of an error.
    Raises ValueError, naming the input of the node, for a frame without that person and for points in another form.
    """
    check_size(size)
    poses = []
    for number, frame in enumerate(list_frames(keypoints, reading.source)):
        try:
            points = read_person(frame, person, number, reading)
        except NoPerson:
            if not passes:
                raise
            points = [None] * POINTS
        poses.append(scale_points(points))
    return stack_labels((build_pose_label(points, DRAWING, DRAWING, size) for points in poses), len(poses))


def scale_points(points: Sequence[Point]) -> list[Point]:
    """Points from fractions of the image to pixels of the drawing."""
    return [None if point is None else (point[0] * DRAWING, point[1] * DRAWING) for point in points]
