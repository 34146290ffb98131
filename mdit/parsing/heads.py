"""The people in a label map, and how the hair, mouth and head of each stand in the picture.

Measures are in the face's frame, which is turned with the eyes: x runs from 0 at the left edge of the face in the
picture to 1 at its right edge, y from 0 at its top to 1 at the chin.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..labelmap import CLASSES
from ..labelmap.faces import BROWS, FACE, MOUTH, NOSE, select, split_faces
from .tilt import find_labelled_eyes

HAIR = ("hair",)
SKIN = ("skin",)
LONGEST = 512  # pixels of a side; larger label maps are thinned out, which no measure sees
BESIDE_MOUTH = 0.85  # y of the line on which hair beside the mouth is measured
BELOW_CHIN = 1.15  # y of the line on which hair below the chin is measured
LINE = 0.02  # half the height of such a line, which is a pixel high at least
FOREHEAD = 0.15  # x on either side of the nose
ABOVE_BROWS = 0.35  # of the distance from the brows to the chin: the height of the forehead
CORNERS = 0.15  # of the mouth's width, on either side
MIDDLE = 0.15  # of the mouth's width, on either side of its middle


class Head(NamedTuple):
    """Measures of one person.

    shares: area of each class that is there, in areas of the face. fringe: fraction of the forehead that hair covers.
    hair_beside_mouth, hair_below_chin: width of the hair there, in widths of the face.
    smile: height of the corners over the middle of the mouth, in heights of the face.
    turn: distance of the nose from the middle of the face, to the right of the picture, in widths of the face.
    tilt: degrees by which the head leans to the right of the picture.
    shows_crown: whether hair would be seen, if there were any.
    """
    shares: dict[str, float]
    fringe: float
    hair_beside_mouth: float
    hair_below_chin: float
    smile: float
    turn: float
    tilt: float
    shows_crown: bool


def find_people(labels: np.ndarray) -> list[np.ndarray]:
    """A label map for each face of a label map (H, W), from left to right. One without a face is returned as it is."""
    owners = split_faces(labels)
    return [np.where(owners == number, labels, 0) for number in range(1, owners.max() + 1)]


def thin_out(labels: np.ndarray) -> np.ndarray:
    """Every k-th pixel of a label map (H, W), at most LONGEST on a side."""
    step = math.ceil(max(labels.shape) / LONGEST)
    return labels[::step, ::step]


def measure_head(labels: np.ndarray) -> Head | None:
    """The measures of the person in a label map (H, W); None if no pixel is of a face."""
    if not select(labels, FACE).any():
        return None
    eyes = find_labelled_eyes(labels, dict(x=0, y=0, width=labels.shape[1], height=labels.shape[0]))
    tilt = eyes.tilt if eyes else 0.0
    frame = Frame(labels, tilt)
    face = frame.locate(FACE)
    nose = frame.locate(NOSE)
    turn = nose[:, 0].mean() - face[:, 0].mean() if len(nose) else 0.0
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES)) / len(face)
    shares = {name: float(share) for name, share in zip(CLASSES[1:], counts[1:]) if share}
    return Head(
        shares, measure_fringe(frame), hair_beside_mouth=measure_width(frame, BESIDE_MOUTH),
        hair_below_chin=measure_width(frame, BELOW_CHIN), smile=measure_smile(frame), turn=float(turn), tilt=tilt,
        shows_crown=shows_crown(frame))


class Frame:
    """The frame of a face (see the module) in a label map (H, W) whose face is tilted by some degrees."""

    def __init__(self, labels: np.ndarray, tilt: float):
        self.labels = labels
        y, x = np.indices(labels.shape)
        cos = math.cos(math.radians(tilt))
        sin = math.sin(math.radians(tilt))
        upright = np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)  # (H, W, 2)
        face = upright[select(labels, FACE)]
        self.size = np.maximum(face.max(0) - face.min(0), 1)
        self.places = (upright - face.min(0)) / self.size  # (H, W, 2)

    def locate(self, names: Sequence[str]) -> np.ndarray:
        """x and y (N, 2) of the pixels of some classes."""
        return self.places[select(self.labels, names)]

    @property
    def pixel(self) -> float:
        """Area of a pixel."""
        return 1 / self.size.prod()

    @property
    def bottom(self) -> float:
        """y at which the picture ends below the face."""
        x, y = self.places[..., 0], self.places[..., 1]
        return y[(x >= 0) & (x <= 1)].max()


def measure_width(frame: Frame, y: float) -> float:
    """Width of the hair on a line, or at the lower edge of a picture that ends above the line."""
    half = max(LINE, 0.5 / frame.size[1])
    y = min(y, frame.bottom - half)
    on_line = np.abs(frame.locate(HAIR)[:, 1] - y) <= half
    return float(on_line.sum() * frame.pixel / (2 * half))


def measure_fringe(frame: Frame) -> float:
    """Fraction of the forehead, above the brows or else the nose, that hair covers."""
    nose = frame.locate(NOSE)
    if not len(nose):
        return 0.0
    upper, lower = find_forehead(frame)
    x, y = frame.places[..., 0], frame.places[..., 1]
    forehead = (np.abs(x - nose[:, 0].mean()) <= FOREHEAD) & (upper <= y) & (y <= lower)
    return float(select(frame.labels, HAIR)[forehead].mean()) if forehead.any() else 0.0


def find_forehead(frame: Frame) -> tuple[float, float]:
    """y of the upper and the lower end of the forehead, above the brows or else the nose, one of which is there."""
    brows = frame.locate(BROWS)
    nose = frame.locate(NOSE)
    lower = brows[:, 1].mean() if len(brows) else nose[:, 1].min()
    return lower - ABOVE_BROWS * (1 - lower), lower


def shows_crown(frame: Frame) -> bool:
    """Whether there is skin that ends in the picture, or that the picture shows up to the end of the forehead."""
    skin = select(frame.labels, SKIN)
    is_cut = skin[0].any() and (not select(frame.labels, BROWS + NOSE).any() or find_forehead(frame)[0] < 0)
    return bool(skin.any() and not is_cut)


def measure_smile(frame: Frame) -> float:
    """Height of the mouth's corners over its middle."""
    mouth = frame.locate(MOUTH)
    if not len(mouth):
        return 0.0
    x, y = mouth.T
    across = (x - x.min()) / max(np.ptp(x), 1 / frame.size[0])  # 0 to 1
    corners = y[(across <= CORNERS) | (across >= 1 - CORNERS)]
    middle = y[np.abs(across - 0.5) <= MIDDLE]
    return float(middle.mean() - corners.mean()) if len(middle) else 0.0
