"""Reliefs as pictures: depth, normals, and the shape lit from the side."""
from __future__ import annotations

import torch
from torch import Tensor

SIDE_LIGHT = (-0.75, 0.35, 0.56)  # from the left, above and before the figure
AMBIENT = 0.08
FACING = (0.5, 0.5, 1.0)  # the color of a normal that points to the viewer


def show_depth(depth: Tensor, figure: Tensor, gap: float = 0.1) -> Tensor:
    """Depth (B, H, W) of 0 far and 1 near as grey images (B, H, W, 3), black where no `figure` (B, H, W) is.

    gap: distance of the black background behind the farthest point, in units of the depth's range.
    """
    level = (depth.clamp(0, 1) + gap) / (1 + gap)
    return torch.where(figure, level, 0.0)[..., None].repeat(1, 1, 1, 3)


def show_normals(normals: Tensor, figure: Tensor) -> Tensor:
    """Normals (B, 3, H, W) as images (B, H, W, 3); the background faces the viewer."""
    colors = (normals.permute(0, 2, 3, 1) + 1) / 2
    return torch.where(figure[..., None], colors, colors.new_tensor(FACING))


def light_relief(normals: Tensor, figure: Tensor) -> Tensor:
    """Matt white figures (B, H, W, 3) with normals (B, 3, H, W), lit from the side."""
    light = torch.nn.functional.normalize(normals.new_tensor(SIDE_LIGHT), dim=0)
    shade = (normals * light.view(3, 1, 1)).sum(1).clamp(min=0)  # (B, H, W)
    level = torch.where(figure, AMBIENT + (1 - AMBIENT) * shade, 0.0)
    return level[..., None].repeat(1, 1, 1, 3)
