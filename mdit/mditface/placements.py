"""Where the tokens of a picture stand, and how the picture is fitted (docs/design/adapters.md, section 5.6)."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..shared.masks import ON_IMAGE

SUBJECT_SIDE = 512  # pixels of the square that a picture beside the image is fitted to, if the adapter names no other
TOKEN = 16  # pixels; EasyControl rounds the sides of a subject down to tokens
GREY = 0.5


def resize(picture: Image.Image, height: int, width: int) -> np.ndarray:
    """Stretched to the size."""
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255


def pad(picture: Image.Image, side: int, _: int) -> np.ndarray:
    """The whole picture in the middle of a square, on grey."""
    longest = max(picture.size)
    w, h = (max(TOKEN, length * side // longest // TOKEN * TOKEN) for length in picture.size)
    x = (side - w) // 2
    y = (side - h) // 2
    square = np.full((side, side, 3), GREY, np.float32)
    square[y:y + h, x:x + w] = resize(picture, h, w)
    return square


def crop(picture: Image.Image, side: int, _: int) -> np.ndarray:
    """The largest square in the middle of the picture."""
    shortest = min(picture.size)
    x, y = ((length - shortest) // 2 for length in picture.size)
    return resize(picture.crop((x, y, x + shortest, y + shortest)), side, side)


class Placement(NamedTuple):
    """One placement, with the sentence that tooltips show.

    description: what happens, beginning with a small letter, without a full stop.
    fit: makes a picture one of a height and a width in pixels, (height, width, 3) in 0..1.
    shift: rows and columns in tokens from the image's first token to the picture's, which keeps its own grid; None for
        a picture that is spread over the image's grid.
    """
    description: str
    fit: Callable[[Image.Image, int, int], np.ndarray] = resize
    shift: tuple[int, int] | None = None


PLACEMENTS = {
    ON_IMAGE: Placement("the picture is stretched over the image, which follows its edges, depth, pose or sketch"),
    "EasyControl subject, 64 rows down": Placement(
        "the picture shows the subject of EasyControl's subject.safetensors", pad, (64, 0)),
    "OminiControl subject, 32 columns right": Placement(
        "the picture shows the subject of OminiControl's subject_512.safetensors", crop, (0, 32)),
    "OminiControl subject, 32 columns left": Placement(
        "the same for subject_1024_beta.safetensors and what OminiControl's code trains", crop, (0, -32)),
}


def fit_picture(picture: np.ndarray, placement: str, height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3) of bytes as a model reads it, (height, width, 3) in 0..1."""
    return PLACEMENTS[placement].fit(Image.fromarray(picture), height, width)


def describe_placements() -> str:
    """One sentence for each placement, as a tooltip."""
    return " ".join(f"{name}: {placement.description}." for name, placement in PLACEMENTS.items())
