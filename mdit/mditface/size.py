"""The size of a stand-alone MDiT's picture: the shape of the label map, near the size that the model was trained at."""
from __future__ import annotations

import math
from typing import NamedTuple

from .config import MDiTConfig

DRAWING = "drawing"
FACTORS = {"trained": 1.0, "trained x 1.5": 1.5, "trained x 2": 2.0}  # presets: side over that of the training images
PRESETS = (*FACTORS, DRAWING)
FAR = 1.5  # a picture with sides longer than the training images' by more than this factor is worth a warning


class ChosenSize(NamedTuple):
    """Sides in pixels; `trained` is the side of the training images."""
    width: int
    height: int
    trained: int

    @property
    def factor(self) -> float:
        """How much longer the sides are than the training images', by their geometric mean."""
        return math.sqrt(self.width * self.height) / self.trained

    @property
    def is_far(self) -> bool:
        return self.factor > FAR

    def __str__(self) -> str:
        text = f"{self.width} x {self.height} pixels, {self.factor:.2g} times the trained size of {self.trained}"
        return text + ": the model has seen no faces of that size" if self.is_far else text


def find_config(model) -> MDiTConfig:
    """The configuration of a MODEL. Raises ValueError for one whose trained size is not known."""
    config = getattr(model.model.diffusion_model, "config", None)
    if not isinstance(config, MDiTConfig):
        raise ValueError(f"model: the trained size of a {type(model.model).__name__} is not known: connect the model "
                         "of 'Load Face Model (MDiT)', or take 'Empty Latent Image'")
    return config


def choose_size(config: MDiTConfig, side_ratio: int, drawing: tuple[int, int], preset: str, width: int,
                height: int) -> ChosenSize:
    """The size of a picture in whole tokens of the model.

    side_ratio: pixels along a latent cell's side.
    drawing: width and height of the label map in pixels.
    preset: one of PRESETS, for a picture in the label map's shape.
    width, height: in pixels, instead of the preset's; 0 for one that follows the label map's shape, or for both.
    """
    across, down = drawing
    if width and height:
        scales = width / across, height / down
    elif width or height:
        scales = (width / across if width else height / down,) * 2
    elif preset == DRAWING:
        scales = 1.0, 1.0
    else:
        scales = (FACTORS[preset] * config.resolution / math.sqrt(across * down),) * 2
    step = config.patch * side_ratio
    sides = [max(1, round(side * scale / step)) * step for side, scale in zip(drawing, scales)]
    return ChosenSize(*sides, config.resolution)
