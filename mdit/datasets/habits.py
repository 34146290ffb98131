"""Label maps as other people and parsers make them: other sides, missing parts, crude and ragged outlines."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import CLASSES, find_class, swap_sides
from ..relief.network import OUTSIDE
from .crude import draw_crude
from .distort import Distortion
from .reliefs import ReliefBatch

# What stands in a map in place of a part that its maker leaves out.
SUBSTITUTES = {
    "neck": ("background", "skin", "cloth"), "cloth": ("background",), "l_ear": ("skin", "hair"),
    "r_ear": ("skin", "hair"), "l_brow": ("skin",), "r_brow": ("skin",), "l_eye": ("skin",), "r_eye": ("skin",),
    "eye_g": ("skin",), "mouth": ("l_lip", "skin"), "ear_r": ("hair", "background"), "neck_l": ("neck", "cloth"),
}
ROUGH = Distortion(chance=0.7, turn=0, zoom=1, shift=0, bend=0.004, ragged=0.004)


@dataclass(frozen=True)
class Habits:
    """Random changes of label maps that leave the relief as it is.

    swap: fraction of the maps with left and right exchanged.
    incomplete: fraction of the maps that lack parts; missing: chance of each part in these.
    crude: fraction of the maps drawn as polygons.
    rough: fraction of the maps with bent and ragged outlines.
    """
    swap: float = 0.05
    incomplete: float = 0.1
    missing: float = 0.2
    crude: float = 0.05
    rough: float = 0.1

    def __call__(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Label maps (B, S, S) uint8 as people draw them."""
        batch = len(labels)
        draws = torch.rand(4, batch, generator=rng)
        labels = torch.where((draws[0] < self.swap).view(-1, 1, 1), swap_sides(labels), labels)
        labels = self.leave_out(labels, draws[1] < self.incomplete, rng)
        for i in torch.nonzero(draws[2] < self.crude).flatten().tolist():
            labels[i] = torch.from_numpy(draw_crude(labels[i].numpy()))
        for i in torch.nonzero(draws[3] < self.rough).flatten().tolist():
            grid = ROUGH.draw_grid(1, labels.shape[-1], rng)
            labels[i] = resample(labels[i, None, None].float(), grid)[0, 0].to(torch.uint8)
        return labels

    def leave_out(self, labels: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
        """Maps whose missing parts are of another class."""
        table = torch.arange(len(CLASSES), dtype=torch.uint8).repeat(len(labels), 1)  # (B, 19)
        for name, others in SUBSTITUTES.items():
            draws = torch.rand(2, len(labels), generator=rng)
            places = torch.tensor([find_class(other) for other in others], dtype=torch.uint8)
            other = places[(draws[1] * len(others)).long()]
            part = find_class(name)
            table[:, part] = torch.where(chosen & (draws[0] < self.missing), other, table[:, part])
        return table.gather(1, labels.flatten(1).long()).view_as(labels)


@dataclass(frozen=True)
class Placing:
    """Mirrors, turns, scales and moves label maps with their relief. The numbers are those of `Distortion`."""
    distortion: Distortion = Distortion(0.2, turn=15.0, zoom=1.5, shift=0.08)

    def __call__(self, batch: ReliefBatch, rng: torch.Generator) -> ReliefBatch:
        """The placed samples; OUTSIDE in the label maps where they have come from outside."""
        labels, depth, normals = mirror_relief(batch, torch.rand(len(batch.labels), generator=rng) < 0.5)
        matrices = self.distortion.draw_affine(len(labels), rng)  # (B, 2, 3)
        grid = F.affine_grid(matrices, [len(labels), 1, *labels.shape[1:]], align_corners=False)
        # 0 is what grid_sample gives outside, so what is inside is moved up by 1.
        placed = resample(torch.cat([labels[:, None] + 1.0, depth[:, None].clamp(min=-1e4), normals], dim=1), grid)
        classes = placed[:, 0].round()
        classes = torch.where(classes > 0, classes - 1, OUTSIDE).to(torch.uint8)
        depth = torch.where((placed[:, 1] > -1e3) & (classes != OUTSIDE), placed[:, 1], -math.inf)
        return ReliefBatch(classes, depth, turn_normals(placed[:, 2:], matrices))


def resample(x: Tensor, grid: Tensor) -> Tensor:
    """The nearest pixels of (B, C, S, S) at the places of a grid, zero outside."""
    return F.grid_sample(x, grid, "nearest", "zeros", align_corners=False)


def mirror_relief(batch: ReliefBatch, chosen: Tensor) -> ReliefBatch:
    """Mirrors the chosen (B,) samples. The person's left stays the person's left."""
    labels, depth, normals = (values.clone() for values in batch)
    labels[chosen] = swap_sides(labels[chosen].flip(-1))
    depth[chosen] = depth[chosen].flip(-1)
    normals[chosen] = normals[chosen].flip(-1) * torch.tensor([-1.0, 1, 1]).view(3, 1, 1)
    return ReliefBatch(labels, depth, normals)


def turn_normals(normals: Tensor, matrices: Tensor) -> Tensor:
    """Normals (B, 3, S, S) of maps that were resampled at the places of affine matrices (B, 2, 3)."""
    scale = torch.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
    cosine, sine = (matrices[:, :, 0] / scale[:, None]).T[:, :, None, None]  # (B, 1, 1) each
    x, y, z = normals.unbind(1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, z], dim=1)
