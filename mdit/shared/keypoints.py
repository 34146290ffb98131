"""Key points of bodies as detectors give them, read as the 18 points of OpenPose's COCO body."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

POINTS = 18
THRESHOLD = 0.3  # the host's: points with a lower score are missing
UNITS = ("auto", "pixels", "fractions", "thousandths")
FARTHEST = 10  # images: how far a point may lie from the image; drawing takes as long as the limbs
FARTHEST_FRACTION = 2.0  # a point may lie outside of the image, but no body of this many pixels is a pose
NECK = 1
RIGHT_EYE = 14
LEFT_EYE = 15
SHOULDERS = (5, 6)  # of COCO's 17 points
COCO = (0, 0, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # the neck's entry is computed instead
BODY_25 = (*range(8), *range(9, 19))
LAYOUTS = {  # number of points -> index of each of the 18 points
    17: COCO,  # COCO
    18: tuple(range(POINTS)),  # OpenPose's COCO body
    25: BODY_25,  # OpenPose's BODY_25
    133: COCO,  # COCO-WholeBody
    134: tuple(range(POINTS)),  # COCO-WholeBody in OpenPose's order, with a neck
}
Point = tuple[float, float] | None  # x, y; None for a missing point


class NoPerson(ValueError):
    """A frame does not show the person."""


class Reading(NamedTuple):
    """How key points are read."""
    source: str = "keypoints"
    """The node's input, for errors."""
    threshold: float = THRESHOLD
    """Score below which a point is missing."""
    units: str = UNITS[0]
    """Of the coordinates, one of UNITS. "auto" takes coordinates as fractions if all of them are small."""


def list_frames(keypoints: Any, source: str) -> list[dict]:
    """The frames of a POSE_KEYPOINT: one frame, a list of frames, or one list of frames a batch.

    Raises ValueError, naming the input `source`, for a value of another form.
    """
    frames = []
    given = keypoints if isinstance(keypoints, (list, tuple)) else [keypoints]
    for item in given:
        frames += item if isinstance(item, list) else [item]
    if not frames:
        raise ValueError(f"{source}: there is no frame: connect the key points of at least one image")
    if not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{source}: the frames have another form than canvas_width, canvas_height and people: connect "
                         "an output of type POSE_KEYPOINT")
    return frames


def read_person(frame: dict, person: int, number: int, reading: Reading) -> list[Point]:
    """The 18 points of a person as fractions of the image.

    number: the frame's index, for errors.
    Raises NoPerson for a frame without that person, and ValueError for points that cannot be read.
    """
    source, threshold, _ = reading
    people = list_people(frame, number, source)
    if person >= len(people):
        raise NoPerson(f"{source}: frame {number} shows {len(people)} people, but person {person} is selected (the "
                       "first is 0): use an image with a person in full view, or lower 'person'")
    points = read_body(people[person].get("pose_keypoints_2d"), number, source)  # (18, 3)
    seen = np.isfinite(points).all(1) & (points[:, 2] > 0)
    if not seen.any():
        raise NoPerson(f"{source}: frame {number} shows no point of person {person}: use an image with a person in "
                       "full view")
    seen &= points[:, 2] >= threshold
    if not seen.any():
        raise NoPerson(f"{source}: frame {number}: the scores of all points of person {person} are below "
                       f"{threshold:g}: lower 'threshold', or use an image with a person in full view")
    fractions = points[:, :2] / find_scale(frame, points[seen, :2], number, reading)
    if np.abs(fractions[seen]).max() > FARTHEST:
        raise ValueError(f"{source}: frame {number} has a point more than {FARTHEST} images away: choose the "
                         "unit of the points in 'units', or use another detector")
    return [tuple(point) if visible else None for point, visible in zip(fractions.tolist(), seen)]


def list_people(frame: dict, number: int, source: str) -> list[dict]:
    """The people of a frame. Raises ValueError, naming the input `source`, for a value of another form."""
    people = frame.get("people") or []
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise ValueError(f"{source}: frame {number} has no list of people with pose_keypoints_2d: connect an output of "
                         "type POSE_KEYPOINT")
    return people


def read_numbers(given: Any, number: int, source: str) -> np.ndarray:
    """Numbers, with or without levels, as one row. Raises ValueError, naming the input `source`, for other values."""
    try:
        return np.asarray(given, float).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: frame {number} has key points or sides that are not numbers: connect an output of "
                         "type POSE_KEYPOINT") from error


def read_body(given: Any, number: int, source: str) -> np.ndarray:
    """x, y and score (18, 3) of a body's points, from a flat list or from one list a point; zeros without a body."""
    flat = read_numbers([] if given is None else given, number, source)
    if not len(flat):
        return np.zeros((POINTS, 3))
    layout = LAYOUTS.get(len(flat) // 3)
    if len(flat) % 3 or layout is None:
        counts = ", ".join(map(str, LAYOUTS))
        raise ValueError(f"{source}: frame {number} has {len(flat)} numbers for the body of a person, expected x, y "
                         f"and score of {counts} points: use a detector of OpenPose or COCO body points")
    points = flat.reshape(-1, 3)
    body = points[list(layout)]
    if layout is COCO:
        body[NECK] = find_neck(*points[list(SHOULDERS)])
    return body


def find_neck(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """x, y and score of the middle between two shoulders, with the lower score of the two."""
    neck = (left + right) / 2
    neck[2] = min(left[2], right[2])
    return neck


def find_scale(frame: dict, points: np.ndarray, number: int, reading: Reading) -> np.ndarray:
    """Width and height of the image in the units of the visible points (n, 2)."""
    source, _, units = reading
    if units == "fractions" or (units == "auto" and np.abs(points).max() <= FARTHEST_FRACTION):
        return np.ones(2)
    if units == "thousandths":
        return np.full(2, 1000.0)
    canvas = read_numbers([frame.get("canvas_width") or 0, frame.get("canvas_height") or 0], number, source)
    if canvas.shape != (2,) or not (canvas >= 1).all():
        raise ValueError(f"{source}: frame {number} has points in pixels but no canvas_width and canvas_height: "
                         "choose the unit in 'units', or use a detector that gives the size of the image")
    outside = ((points < 0) | (points > canvas)).any(1)
    if units == "auto" and outside.mean() > 0.5:
        raise ValueError(f"{source}: frame {number}: most points lie outside of the canvas of {canvas[0]:g} x "
                         f"{canvas[1]:g} pixels, up to ({points[:, 0].max():g}, {points[:, 1].max():g}): choose the "
                         "unit of the points in 'units'")
    return canvas
