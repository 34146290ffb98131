"""Label maps for the eye: colors over an image, and a legend."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .classes import CLASSES, DISPLAY_NAMES
from .convert import to_image
from .palettes import PALETTE

LEAST_HEIGHT = 480  # of a sheet, in pixels: the legend has a line for every class
PAPER = (255, 255, 255)
INK = (0, 0, 0)


def measure_classes(labels: torch.Tensor) -> list[tuple[int, float]]:
    """The classes in label maps of any shape with their fractions of the pixels, the largest first."""
    counts = torch.bincount(labels.flatten().long(), minlength=len(CLASSES)) / labels.numel()
    return [(k, counts[k].item()) for k in counts.argsort(descending=True, stable=True).tolist() if counts[k] > 0]


def overlay(image: torch.Tensor, labels: torch.Tensor, opacity: float) -> torch.Tensor:
    """Images (B, H, W, 3) in 0..1 under the colors of label maps (B, H, W); background stays clear."""
    alpha = opacity * (labels > 0)[..., None]  # (B, H, W, 1)
    return image.lerp(to_image(labels).to(image), alpha.to(image))


def draw_sheet(labels: torch.Tensor, images: list[torch.Tensor], notes: list[str]) -> torch.Tensor:
    """Panels and a legend side by side: (h, w, 3) in 0..1.

    labels: (H, W), the first panel in class colors. images: the other panels, (H, W, 3). notes: lines below the legend.
    """
    height = max(LEAST_HEIGHT, labels.shape[0])
    size = round(labels.shape[1] * height / labels.shape[0]), height
    panels = [_to_pil(to_image(labels[None])[0]).resize(size, Image.Resampling.NEAREST)]
    panels += [_to_pil(image).resize(size, Image.Resampling.LANCZOS) for image in images]
    panels.append(_draw_legend(measure_classes(labels), notes, height))
    return torch.from_numpy(np.concatenate(panels, axis=1) / np.float32(255))


def _to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image.cpu().clamp(0, 1) * 255).round().byte().numpy())


def _draw_legend(entries: list[tuple[int, float]], notes: list[str], height: int) -> Image.Image:
    row = height // (len(CLASSES) + 3)
    font = ImageFont.load_default(row * 0.66)
    page = Image.new("RGB", (13 * row, height), PAPER)
    draw = ImageDraw.Draw(page)
    for y, (k, fraction) in enumerate(entries):
        top = row * (y + 0.5)
        draw.rectangle((row // 2, top + row // 8, row * 3 // 2, top + row * 7 // 8), fill=PALETTE[k], outline=INK)
        draw.text((2 * row, top + row / 2), DISPLAY_NAMES[k], INK, font, anchor="lm")
        draw.text((12.5 * row, top + row / 2), f"{fraction:.1%}", INK, font, anchor="rm")
    for y, note in enumerate(reversed(notes)):
        draw.text((row // 2, height - row * (y + 1)), note, INK, font, anchor="lm")
    return page
