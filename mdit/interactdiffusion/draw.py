"""Interactions drawn over an image."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..shared.fonts import choose_font, compose
from .interactions import Box, Interaction
from .model import compute_action_boxes

Color = tuple[int, int, int]

COLORS: tuple[Color, ...] = ((214, 39, 40), (148, 150, 20), (31, 119, 180), (44, 160, 44), (255, 127, 14),
                             (140, 86, 75), (23, 190, 207), (148, 103, 189))  # one for each interaction, in turn
OVERSAMPLING = 2  # drawn larger and then reduced, for smooth lines
ACTION_ALPHA = 70
LABEL_ALPHA = 215
OPAQUE = 255
DASH = 0.6  # fraction of a dash's period that is drawn


class Pen(ImageDraw.ImageDraw):
    """Draws on a layer in fractions of its size. Line width and letters grow with the layer."""

    def __init__(self, layer: Image.Image):
        super().__init__(layer)
        self.size = layer.size
        self.stroke = max(2, round(min(layer.size) / 200))
        self.letter_size = max(10 * OVERSAMPLING, min(layer.size) / 28)

    def to_pixels(self, position: Sequence[float]) -> np.ndarray:
        """(2,) in pixels of a position in fractions."""
        return np.array([position[0] * self.size[0], position[1] * self.size[1]])

    def draw_box(self, box: Box, color: tuple[int, ...], fill: tuple[int, ...] | None = None, dashed: bool = False):
        left, top = self.to_pixels(box[:2])
        right, bottom = self.to_pixels(box[2:])
        if not dashed:
            self.rectangle((left, top, right, bottom), fill, color, self.stroke)
            return
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        for start, end in zip(corners, corners[1:]):
            self.draw_dashed_line(np.array(start), np.array(end), color)

    def draw_dashed_line(self, start: np.ndarray, end: np.ndarray, color: tuple[int, ...]):
        count = max(1, round(np.linalg.norm(end - start) / (8 * self.stroke)))
        for i in range(count):
            dash_start = start + (end - start) * i / count
            dash_end = start + (end - start) * (i + DASH) / count
            self.line([tuple(dash_start), tuple(dash_end)], color, self.stroke)

    def draw_arrow(self, tail: Sequence[float], tip: Sequence[float], color: tuple[int, ...]):
        start = self.to_pixels(tail)
        end = self.to_pixels(tip)
        length = np.linalg.norm(end - start)
        if length < 1:
            return
        along = (end - start) / length
        across = np.array([-along[1], along[0]])
        head = min(7 * self.stroke, length)
        neck = end - head * along
        wing = head / 2 * across
        self.line([tuple(start), tuple(neck)], color, self.stroke)
        self.polygon([tuple(end), tuple(neck + wing), tuple(neck - wing)], color)

    def draw_label(self, position: Sequence[float], text: str, color: Color, centered: bool = False):
        """White text on the color. `position` is its top left corner or its center; it is moved into the image."""
        if not text:
            return
        text = compose(text)
        font = choose_font(text, self.letter_size)
        left, top, right, bottom = self.textbbox((0, 0), text, font)
        extent = np.array([right - left, bottom - top]) + 4 * self.stroke
        corner = self.to_pixels(position)
        if centered:
            corner = corner - extent / 2
        x, y = np.maximum(0, np.minimum(corner, np.array(self.size) - extent))
        self.rectangle((x, y, x + extent[0], y + extent[1]), (*color, LABEL_ALPHA))
        text_corner = (x + 2 * self.stroke - left, y + 2 * self.stroke - top)
        self.text(text_corner, text, (255, 255, 255, 255), font)


def draw_layout(images: Tensor, interactions: Sequence[Interaction]) -> Tensor:
    """Draws all interactions over images (B, H, W, 3) in 0..1.

    Each has the subject's box, the object's box dashed, an arrow between them, and the action's box filled.
    """
    height, width = images.shape[1:3]
    layer = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING), (0, 0, 0, 0))
    pen = Pen(layer)
    colors = [COLORS[i % len(COLORS)] for i in range(len(interactions))]
    for interaction, color in zip(interactions, colors):
        draw_boxes(layer, pen, interaction, color)
    for interaction, color in zip(interactions, colors):
        draw_labels(pen, interaction, color)
    reduced = np.asarray(layer.resize((width, height), Image.Resampling.LANCZOS)) / np.float32(255)
    overlay = torch.from_numpy(reduced)
    alpha = overlay[..., 3:].to(images)
    return images * (1 - alpha) + overlay[..., :3].to(images) * alpha


def draw_boxes(layer: Image.Image, pen: Pen, interaction: Interaction, color: Color):
    action = Image.new("RGBA", layer.size, (0, 0, 0, 0))
    Pen(action).draw_box(compute_action_box(interaction), (*color, 2 * ACTION_ALPHA), (*color, ACTION_ALPHA))
    layer.alpha_composite(action)
    pen.draw_box(interaction.subject_box, (*color, OPAQUE))
    pen.draw_box(interaction.object_box, (*color, OPAQUE), dashed=True)
    pen.draw_arrow(center(interaction.subject_box), center(interaction.object_box), (*color, OPAQUE))


def draw_labels(pen: Pen, interaction: Interaction, color: Color):
    pen.draw_label(interaction.subject_box[:2], interaction.subject, color)
    pen.draw_label(interaction.object_box[:2], interaction.object, color)
    middle = np.mean([center(interaction.subject_box), center(interaction.object_box)], axis=0)
    pen.draw_label(middle, interaction.action, color, centered=True)


def compute_action_box(interaction: Interaction) -> Box:
    boxes = compute_action_boxes(torch.tensor(interaction.subject_box), torch.tensor(interaction.object_box))
    return tuple(boxes.tolist())


def center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
