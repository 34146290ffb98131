"""Label maps for the eye: colours over a picture, and a legend."""
from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .classes import CLASSES, DISPLAY_NAMES, PALETTE
from .convert import to_image

LEAST_HEIGHT = 480  # of a sheet, in pixels: room for every class in the legend
PAPER, INK = (255, 255, 255), (0, 0, 0)


def shares(labels: torch.Tensor) -> list[tuple[int, float]]:
    """The classes in label maps of any shape with their parts of the pixels, the largest first."""
    counts = torch.bincount(labels.flatten().long(), minlength=len(CLASSES)) / labels.numel()
    return [(k, counts[k].item()) for k in counts.argsort(descending=True, stable=True).tolist() if counts[k] > 0]


def overlay(picture: torch.Tensor, labels: torch.Tensor, opacity: float) -> torch.Tensor:
    """Pictures (B, H, W, 3) in 0..1 under the colours of label maps (B, H, W), but for the background."""
    alpha = opacity * (labels > 0)[..., None]  # (B, H, W, 1)
    return picture.lerp(to_image(labels).to(picture), alpha.to(picture))


def sheet(labels: torch.Tensor, pictures: list[torch.Tensor], notes: list[str]) -> torch.Tensor:
    """Panels and a legend side by side: (h, w, 3) in 0..1.

    labels: (H, W); its colours are the first panel, the pictures (H, W, 3) the others. notes: lines below the legend.
    """
    height = max(LEAST_HEIGHT, labels.shape[0])
    size = round(labels.shape[1] * height / labels.shape[0]), height
    panels = [_pil(to_image(labels[None])[0]).resize(size, Image.Resampling.NEAREST),
              *(_pil(picture).resize(size, Image.Resampling.LANCZOS) for picture in pictures),
              _legend(shares(labels), notes, height)]
    return torch.from_numpy(np.concatenate(panels, axis=1) / np.float32(255))


def _pil(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture.cpu().clamp(0, 1) * 255).round().byte().numpy())


def _legend(entries: list[tuple[int, float]], notes: list[str], height: int) -> Image.Image:
    row = height // (len(CLASSES) + 3)
    font = ImageFont.load_default(row * 0.66)
    page = Image.new("RGB", (13 * row, height), PAPER)
    draw = ImageDraw.Draw(page)
    for y, (k, share) in enumerate(entries):
        top = row * (y + 0.5)
        draw.rectangle((row // 2, top + row // 8, row * 3 // 2, top + row * 7 // 8), fill=PALETTE[k], outline=INK)
        draw.text((2 * row, top + row / 2), DISPLAY_NAMES[k], INK, font, anchor="lm")
        draw.text((12.5 * row, top + row / 2), f"{share:.1%}", INK, font, anchor="rm")
    for y, note in enumerate(reversed(notes)):
        draw.text((row // 2, height - row * (y + 1)), note, INK, font, anchor="lm")
    return page
