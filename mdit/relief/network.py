"""A U-net that finds depth and normals of a label map, trained on renders (docs/design/control-maps.md, section 1)."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import CLASSES

CONFIG_KEY = "mdit.relief"  # of a file's header
FOLD = 4  # pixels along a side that one position's channels hold
OUTSIDE = len(CLASSES)  # what lies outside the label map


@dataclass(frozen=True)
class ReliefConfig:
    """Sizes of a network.

    size: pixels along a side of its input.
    widths: of the levels; from one to the next, sides are halved.
    detail: channels at full resolution: the numbers that stand for a class.
    """
    size: int = 256
    widths: tuple[int, ...] = (32, 48, 64, 96, 128)
    detail: int = 8

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        multiple = FOLD * 2 ** (len(self.widths) - 1)
        if len(self.widths) < 2 or min((*self.widths, self.size, self.detail)) < 1 or self.size % multiple:
            raise ValueError(f"{CONFIG_KEY}: size {self.size} with widths {list(self.widths)} and detail "
                             f"{self.detail}: there must be at least two positive widths, and {multiple} must divide "
                             "the size")

    def to_metadata(self) -> dict[str, str]:
        return {CONFIG_KEY: json.dumps(dataclasses.asdict(self))}


def make_convolutions(n_in: int, n_out: int, operations=nn) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with a normalization and a SiLU."""
    return nn.Sequential(
        operations.Conv2d(n_in, n_out, 3, padding=1, bias=False), operations.BatchNorm2d(n_out), nn.SiLU(),
        operations.Conv2d(n_out, n_out, 3, padding=1, bias=False), operations.BatchNorm2d(n_out), nn.SiLU())


class ReliefNetwork(nn.Module):
    """Class indices (B, S, S), OUTSIDE where there is no map -> depth and normals (B, 4, S, S).

    Depth is nearness: about 0 at the figure's farthest and 1 at its nearest point. Normals have unit length: x right,
    y up, z to the viewer.
    operations: module of the layers' classes; torch.nn for training.
    """

    def __init__(self, config: ReliefConfig = ReliefConfig(), operations=nn):
        super().__init__()
        self.config = config
        widths = config.widths
        inputs = (config.detail * FOLD ** 2 + 2, *widths[:-1])
        self.embed = operations.Embedding(len(CLASSES) + 1, config.detail)
        self.down = nn.ModuleList(
            make_convolutions(n_in, n_out, operations) for n_in, n_out in zip(inputs, widths))
        self.up = nn.ModuleList(
            make_convolutions(n_below + n_out, n_out, operations)
            for n_below, n_out in zip(widths[:0:-1], widths[-2::-1]))
        self.spread = operations.Conv2d(widths[0], config.detail * FOLD ** 2, 1)
        self.out = operations.Conv2d(config.detail, 4, 3, padding=1)

    def forward(self, labels: Tensor) -> Tensor:
        classes = self.embed(labels.long()).permute(0, 3, 1, 2)  # (B, detail, S, S)
        folded = F.pixel_unshuffle(classes, FOLD)  # (B, 16 detail, S / 4, S / 4)
        levels = self.descend(torch.cat([folded, make_coordinates(folded)], dim=1))
        x = levels.pop()
        for block in self.up:
            skip = levels.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:], mode="nearest"), skip], dim=1))
        detail = F.pixel_shuffle(self.spread(x), FOLD)  # (B, detail, S, S)
        found = self.out(F.silu(detail + classes)).float()  # at full resolution: a folded output would show its cells
        return torch.cat([found[:, :1], F.normalize(found[:, 1:], dim=1)], dim=1)

    def descend(self, x: Tensor) -> list[Tensor]:
        """What each level makes of the input, the finest first."""
        levels = [self.down[0](x)]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        return levels


def make_coordinates(x: Tensor) -> Tensor:
    """Column and row of each position of (B, C, h, w) in -1..1, (B, 2, h, w)."""
    batch, _, height, width = x.shape
    column = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).expand(batch, height, width)
    row = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None].expand(batch, height, width)
    return torch.stack([column, row], dim=1)
