"""The label of a pose, 20 channels: its drawing in 3 and the distances to its 17 limbs (spec section 5)."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .label import Label, check_size, distances, stacked

POINTS = 18
DRAWING = 256  # pixels along a side of the drawing that the published model was trained with: radii are absolute
COLOURS = np.array([  # RGB, of a point and of the limb of the same number
    (0, 0, 255), (0, 85, 255), (0, 170, 255), (0, 255, 255), (0, 255, 170), (0, 255, 85), (0, 255, 0), (85, 255, 0),
    (170, 255, 0), (255, 255, 0), (255, 170, 0), (255, 85, 0), (255, 0, 0), (255, 0, 85), (255, 0, 170), (255, 0, 255),
    (170, 0, 255), (85, 0, 255)], np.uint8)
LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
         (0, 14), (14, 16), (0, 15), (15, 17))  # pairs of COCO's 18 points in OpenPose's order
DISC = {-4: 0, -3: 2, -2: 3, -1: 3, 0: 4, 1: 3, 2: 3, 3: 2, 4: 0}  # half-width of a point by row
THICKNESS = 4  # half of a limb's
OPACITY = 0.6
SINES = np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32)  # as the reference's library rounds them
Point = tuple[float, float] | None  # x, y in pixels; None where it is not seen


def pose_label(points: Sequence[Point], height: int, width: int, size: int) -> np.ndarray:
    """The label (20, S, S) uint8 of 18 points on a canvas of that height and width."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for point, colour in zip(points, COLOURS):
        if point is not None:
            canvas[disc(point, height, width)] = colour
    masks = [limb(points[a], points[b], height, width) for a, b in LIMBS]
    for mask, colour in zip(masks, COLOURS):
        if mask.any():
            painted = np.where(mask[..., None], colour, canvas)
            canvas = np.rint((1 - OPACITY) * canvas + OPACITY * painted).astype(np.uint8)
    drawing = np.asarray(Image.fromarray(canvas).resize((size, size), Image.Resampling.NEAREST))  # (S, S, 3)
    far = [np.asarray(Image.fromarray(distances(mask)).resize((size, size), Image.Resampling.BILINEAR))
           for mask in masks]
    return np.stack([*drawing.transpose(2, 0, 1), *far])


def disc(point: Point, height: int, width: int) -> np.ndarray:
    """(H, W) bool."""
    x, y = map(int, point)
    mask = np.zeros((height, width), bool)
    for dy, reach in DISC.items():
        if 0 <= y + dy < height:
            mask[y + dy, max(0, x - reach):max(0, x + reach + 1)] = True
    return mask


def limb(a: Point, b: Point, height: int, width: int) -> np.ndarray:
    """(H, W) bool: an ellipse from point to point; empty where one is not seen."""
    mask = np.zeros((height, width), bool)
    if a is None or b is None:
        return mask
    (x0, y0), (x1, y1) = a, b
    middle = int((x0 + x1) / 2), int((y0 + y1) / 2)
    length, angle = np.hypot(x0 - x1, y0 - y1), np.degrees(np.arctan2(y0 - y1, x0 - x1))
    for y, (left, right) in spans(ellipse(middle, int(length / 2), int(angle))).items():
        if 0 <= y < height:
            mask[y, max(0, left):max(0, right + 1)] = True
    return mask


def ellipse(middle: tuple[int, int], half_length: int, angle: int) -> np.ndarray:
    """Its outline, closed, as whole pixels (361, 2), one for each degree."""
    degrees = np.arange(361)
    along, across = half_length * cosine(degrees).astype(float), THICKNESS * sine(degrees).astype(float)
    c, s = float(cosine(angle)), float(sine(angle))
    return np.rint(np.stack([middle[0] + along * c - across * s, middle[1] + along * s + across * c], 1)).astype(int)


def sine(degrees):
    return SINES[degrees % 360]


def cosine(degrees):
    return SINES[(degrees + 90) % 360]


def spans(outline: np.ndarray) -> dict[int, tuple[int, int]]:
    """First and last pixel of each row of a filled polygon that is convex, its outline included.

    A line takes, where it passes between two pixels of a column or row, that which is nearer to its left end; where
    such a one ends a row, the row takes the other, too.
    """
    found = {}
    for (x0, y0), (x1, y1) in zip(outline[:-1].tolist(), outline[1:].tolist()):
        if x1 < x0:
            x0, y0, x1, y1 = x1, y1, x0, y0
        for x, y, farthest in line(x1 - x0, y1 - y0):
            left, right = found.get(y0 + y, (x0 + x, x0 + x))
            found[y0 + y] = min(left, x0 + x), max(right, x0 + farthest)
    return found


def line(dx: int, dy: int):
    """Yields the pixels (x, y) from (0, 0) to (dx, dy), dx >= 0, and the last x of each where rounded up."""
    steps, sign = max(dx, abs(dy)), 1 if dy >= 0 else -1
    for i in range(steps + 1):
        if abs(dy) > dx:
            yield -((steps - 2 * i * dx) // (2 * steps)), sign * i, (2 * i * dx + steps) // (2 * steps)
        else:
            x, y = i, -((steps - 2 * i * abs(dy)) // (2 * steps)) if steps else 0
            yield x, sign * y, x


def from_keypoints(frames: Sequence[dict], size: int, person: int = 0) -> Label:
    """Labels of the host's POSE_KEYPOINT, one for each frame.

    A point of score 0 is not seen. Raises ValueError, which names the node's input, for a frame without that person,
    and for points in another form.
    """
    check_size(size)
    if not frames:
        raise ValueError("keypoints: there is no frame: connect the key points of at least one picture")
    poses = [points_of(frame, person, number) for number, frame in enumerate(frames)]
    return stacked((pose_label(points, DRAWING, DRAWING, size) for points in poses), len(poses))


def points_of(frame: dict, person: int, number: int) -> list[Point]:
    """A person's points on the drawing."""
    people = frame["people"]
    if person >= len(people):
        raise ValueError(f"keypoints: frame {number} shows {len(people)} people, but person {person} is asked (the "
                         "first is 0): use a picture with a person in full view, or lower 'person'")
    flat = np.asarray(people[person]["pose_keypoints_2d"] or (), float)
    if len(flat) != 3 * POINTS:
        raise ValueError(f"keypoints: frame {number} has {len(flat)} numbers for a person's body, expected "
                         f"{3 * POINTS}, x, y and score of {POINTS} points: use a detector of OpenPose's body points")
    points = flat.reshape(POINTS, 3)
    if not (points[:, 2] > 0).any():
        raise ValueError(f"keypoints: frame {number} shows no point of person {person}: use a picture with a person in "
                         "full view")
    scale = DRAWING / frame["canvas_width"], DRAWING / frame["canvas_height"]
    return [(x * scale[0], y * scale[1]) if score > 0 else None for x, y, score in points.tolist()]
