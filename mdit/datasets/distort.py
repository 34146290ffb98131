"""Images of rough label maps, made of renders: tilted, off-centre, bent, ragged or crude, with exact labels."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import CLASSES

BEND_CELLS = 5     # cells of the smooth displacement along a side
RAGGED_CELL = 4    # pixels of a cell of the ragged displacement


@dataclass(frozen=True)
class Distortion:
    """Displaces an image and its label map alike, and draws parts of the image flat, as if from a crude map.

    chance: of each of four changes of a sample, independent of each other: turned and moved; bent; ragged; flat.
    turn: largest angle in degrees.
    zoom: largest factor of the size, and of its inverse.
    shift, bend, ragged: deviations of the displacements, as fractions of the side.
    """
    chance: float = 0.3
    turn: float = 20.0
    zoom: float = 1.25
    shift: float = 0.06
    bend: float = 0.015
    ragged: float = 0.006

    def __call__(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) in [-1, 1] and labels (B, S, S) uint8. `rng` is on their device."""
        grid = self.draw_grid(len(images), images.shape[-1], rng)
        images = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
        shown = labels[:, None].to(images.dtype)  # (B, 1, S, S)
        labels = F.grid_sample(shown, grid, "nearest", "border", align_corners=False)[:, 0].round().to(torch.uint8)
        strength = torch.rand(len(images), 1, 1, 1, generator=rng, device=rng.device)
        flat = strength * self.choose(len(images), rng)
        return torch.lerp(images, flatten_classes(images, labels), flat), labels

    def choose(self, batch: int, rng: torch.Generator) -> Tensor:
        """1 for the samples that are changed, otherwise 0, (B, 1, 1, 1)."""
        return (torch.rand(batch, 1, 1, 1, generator=rng, device=rng.device) < self.chance).float()

    def draw_grid(self, batch: int, side: int, rng: torch.Generator) -> Tensor:
        """Where each pixel comes from, (B, side, side, 2) in -1..1."""
        grid = F.affine_grid(self.draw_affine(batch, rng), [batch, 1, side, side], align_corners=False)
        for deviation, cells, mode in ((self.bend, BEND_CELLS, "bicubic"),
                                       (self.ragged, -(-side // RAGGED_CELL), "bilinear")):
            noise = torch.randn(batch, 2, cells, cells, generator=rng, device=rng.device)
            field = F.interpolate(noise, (side, side), mode=mode)  # (B, 2, side, side)
            grid = grid + (2 * deviation * self.choose(batch, rng) * field).permute(0, 2, 3, 1)
        return grid

    def draw_affine(self, batch: int, rng: torch.Generator) -> Tensor:
        """Matrices (B, 2, 3): a turn, a zoom and a shift, or the identity."""
        moved = self.choose(batch, rng).flatten()  # (B,)
        turn, zoom = (2 * torch.rand(2, batch, generator=rng, device=rng.device) - 1) * moved
        angle = math.radians(self.turn) * turn
        scale = self.zoom ** zoom
        shift = 2 * self.shift * torch.randn(2, batch, generator=rng, device=rng.device) * moved
        rows = (torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[0]]),
                torch.stack([scale * angle.sin(), scale * angle.cos(), shift[1]]))
        return torch.stack(rows).permute(2, 0, 1)


def flatten_classes(images: Tensor, labels: Tensor) -> Tensor:
    """Images (B, 3, S, S) whose classes have the mean color of their pixels. labels: (B, S, S)."""
    batch = len(images)
    index = labels.flatten(1).long()[:, None].expand(-1, 3, -1)  # (B, 3, S * S)
    sums = images.new_zeros(batch, 3, len(CLASSES)).scatter_add(2, index, images.flatten(2))
    counts = torch.zeros_like(sums).scatter_add(2, index, torch.ones_like(index, dtype=sums.dtype))
    return (sums / counts.clamp(min=1)).gather(2, index).view_as(images)
