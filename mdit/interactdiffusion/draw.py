"""Interactions drawn over a picture."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .interactions import Box, Interaction
from .model import between

COLOURS = ((214, 39, 40), (148, 150, 20), (31, 119, 180), (44, 160, 44), (255, 127, 14), (140, 86, 75), (23, 190, 207),
           (148, 103, 189))  # one an interaction, in turn
FINENESS = 2  # drawn larger and shrunk, for smooth lines
ACTION_ALPHA, LABEL_ALPHA = 70, 215


class Pen(ImageDraw.ImageDraw):
    """Draws on a layer in fractions of its size; lines and letters grow with it."""

    def __init__(self, layer: Image.Image):
        super().__init__(layer)
        self.size = layer.size
        self.stroke = max(2, round(min(layer.size) / 200))
        self.font = ImageFont.load_default(max(10 * FINENESS, min(layer.size) / 28))

    def point(self, x: float, y: float) -> tuple[float, float]:
        return x * self.size[0], y * self.size[1]

    def box(self, box: Box, colour: tuple[int, ...], fill: tuple[int, ...] | None = None, dashed: bool = False):
        left, top = self.point(*box[:2])
        right, bottom = self.point(*box[2:])
        if not dashed:
            self.rectangle((left, top, right, bottom), fill, colour, self.stroke)
            return
        corners = (left, top), (right, top), (right, bottom), (left, bottom), (left, top)
        for start, end in zip(corners, corners[1:]):
            self.dashes(np.array(start), np.array(end), colour)

    def dashes(self, start: np.ndarray, end: np.ndarray, colour: tuple[int, ...]):
        count = max(1, round(np.linalg.norm(end - start) / (8 * self.stroke)))
        for i in range(count):
            ends = (start + (end - start) * (i + part) / count for part in (0, 0.6))
            self.line([tuple(point) for point in ends], colour, self.stroke)

    def arrow(self, start: Sequence[float], end: Sequence[float], colour: tuple[int, ...]):
        start, end = (np.array(self.point(*place)) for place in (start, end))
        length = np.linalg.norm(end - start)
        if length < 1:
            return
        along = (end - start) / length
        across, head = np.array([-along[1], along[0]]), min(7 * self.stroke, length)
        neck = end - head * along
        self.line([tuple(start), tuple(neck)], colour, self.stroke)
        self.polygon([tuple(end), *(tuple(neck + side * head / 2 * across) for side in (1, -1))], colour)

    def label(self, place: Sequence[float], text: str, colour: tuple[int, ...], centred: bool = False):
        """White letters on the colour, with their top left, or their centre, at a place; moved into the picture."""
        if not text:
            return
        x, y = self.point(*place)
        left, top, right, bottom = self.textbbox((0, 0), text, self.font)
        width, height = right - left + 4 * self.stroke, bottom - top + 4 * self.stroke
        if centred:
            x, y = x - width / 2, y - height / 2
        x, y = (max(0, min(start, side - extent)) for start, side, extent in zip((x, y), self.size, (width, height)))
        self.rectangle((x, y, x + width, y + height), (*colour, LABEL_ALPHA))
        self.text((x + 2 * self.stroke - left, y + 2 * self.stroke - top), text, (255, 255, 255, 255), self.font)


def draw(pictures: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    """Pictures (B, H, W, 3) in 0..1 with all interactions: the subject's box, the object's dashed, an arrow from one to
    the other, and the action's box filled."""
    height, width = pictures.shape[1:3]
    layer = Image.new("RGBA", (width * FINENESS, height * FINENESS), (0, 0, 0, 0))
    pen = Pen(layer)
    for i, interaction in enumerate(interactions):
        draw_boxes(layer, pen, interaction, COLOURS[i % len(COLOURS)])
    for i, interaction in enumerate(interactions):
        draw_labels(pen, interaction, COLOURS[i % len(COLOURS)])
    over = torch.from_numpy(np.asarray(layer.resize((width, height), Image.Resampling.LANCZOS)) / np.float32(255))
    alpha = over[..., 3:].to(pictures)
    return pictures * (1 - alpha) + over[..., :3].to(pictures) * alpha


def action_box(interaction: Interaction) -> Box:
    return tuple(between(torch.tensor(interaction.subject_box), torch.tensor(interaction.object_box)).tolist())


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def draw_boxes(layer: Image.Image, pen: Pen, one: Interaction, colour: tuple[int, int, int]):
    action = Image.new("RGBA", layer.size, (0, 0, 0, 0))
    Pen(action).box(action_box(one), (*colour, 2 * ACTION_ALPHA), (*colour, ACTION_ALPHA))
    layer.alpha_composite(action)
    pen.box(one.subject_box, (*colour, 255))
    pen.box(one.object_box, (*colour, 255), dashed=True)
    pen.arrow(centre(one.subject_box), centre(one.object_box), (*colour, 255))


def draw_labels(pen: Pen, one: Interaction, colour: tuple[int, int, int]):
    pen.label(one.subject_box[:2], one.subject, colour)
    pen.label(one.object_box[:2], one.object, colour)
    middle = np.mean([centre(one.subject_box), centre(one.object_box)], axis=0)
    pen.label(middle, one.action, colour, centred=True)
