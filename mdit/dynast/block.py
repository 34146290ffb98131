"""The attention block of DynaST (docs/design/dynast.md, section 6.3)."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..shared.candidates import Grid2D, join_2x2, split_2x2
from ..shared.sparse_attention import Projections, SparseOptions, SparseOutput, attend_sparsely
from .config import LEVELS, DynaSTConfig
from .layers import SPADE, ResBlock, normalize_positions

EPSILON = 1e-10


class ExemplarFeatures(NamedTuple):
    """What the queries of a level read.

    features: (B, c_L, h, w).
    positions: (1, p_L, h, w), which queries and keys share.
    image: (B, 3, h, w), to be warped; None for none.
    """
    features: Tensor
    positions: Tensor
    image: Tensor | None


class Block(nn.Module):
    """Features (B, c_L, h, w) read the exemplar. Where the pruning test rejects it, SPADE fills in from the label.

    `dense`: at the coarsest level all positions are candidates.
    """

    def __init__(self, config: DynaSTConfig, level: int, operations):
        super().__init__()
        c = config.get_width(level)
        d = c + config.get_position_width(level)
        r = config.get_prune_width(level)
        self.dense = level == LEVELS[0]
        self.tau = d ** 0.5 if self.dense else config.smooth
        self.f = operations.Conv2d(d, d, 1)
        self.g = operations.Conv2d(d, d, 1)
        self.h = operations.Conv2d(c, c, 1)
        self.f_prune = operations.Conv2d(d, r, 1)
        self.g_prune = operations.Conv2d(d, r, 1)
        self.spade = SPADE(c, config.nc, operations)
        self.res_block = ResBlock(c, operations)

    def forward(self, x: Tensor, label: Tensor, exemplar: ExemplarFeatures, candidates: Tensor | None,
                top_k: int | None, warp_kept: bool) -> tuple[Tensor, SparseOutput]:
        """Returns the new features and what the queries read, its images as (B, C, h, w).

        candidates: (B, n, C), for each 2 x 2 window or for each position; None for all positions. top_k: number of
        candidates to hand on; None for none.
        """
        found = self.attend(x, exemplar, candidates, SparseOptions(self.tau, top_k, warp_kept))
        y = found.output + (1 - found.conf) * self.spade(x, label) + x  # (B, c_L, h, w)
        return self.res_block(normalize_positions(y)), found

    def attend(self, x: Tensor, exemplar: ExemplarFeatures, candidates: Tensor | None,
               options: SparseOptions) -> SparseOutput:
        """What the queries read; all but `chosen` as (B, C, h, w)."""
        grid = x.shape[-2:]
        query = project(x, exemplar.positions, self.f, self.f_prune)
        key = project(exemplar.features, exemplar.positions, self.g, self.g_prune)
        value = to_rows(self.h(exemplar.features))  # (B, h * w, c_L)
        image = None if exemplar.image is None else to_rows(exemplar.image)  # (B, h * w, 3)
        if self.dense:  # affects gradients only
            query = query._replace(prune=query.prune / query.prune.shape[-1])
        in_windows = candidates is not None and candidates.shape[1] < query.score.shape[1]
        if in_windows:
            query = Projections(order_by_window(query.score, grid), order_by_window(query.prune, grid))
        found = attend_sparsely(query, key, value, candidates, options, image)
        if in_windows:
            found = SparseOutput._make(order_by_row(part, grid) for part in found)
        return SparseOutput(to_maps(found.output, grid), to_maps(found.conf, grid), to_maps(found.warped, grid),
                            found.chosen)


def project(x: Tensor, positions: Tensor, score: nn.Module, prune: nn.Module) -> Projections:
    """Projections of features (B, c, h, w), scaled to unit length, and of their positions (1, p, h, w)."""
    x = x / (x.norm(dim=1, keepdim=True) + EPSILON)
    x = torch.cat([x, positions.expand(len(x), -1, -1, -1)], dim=1)  # (B, d, h, w)
    return Projections(to_rows(score(x)), to_rows(prune(x)))


def to_rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return x.flatten(2).mT


def to_maps(x: Tensor | None, grid: Grid2D) -> Tensor | None:
    """(B, h * w, C) -> (B, C, h, w)."""
    return None if x is None else x.mT.unflatten(2, grid)


def order_by_window(x: Tensor, grid: Grid2D) -> Tensor:
    """(B, N, C) in row order -> (B, N, C), where the four positions of each 2 x 2 window follow each other."""
    return split_2x2(x, grid).flatten(1, 2)


def order_by_row(x: Tensor | None, grid: Grid2D) -> Tensor | None:
    """The inverse of `order_by_window`."""
    return None if x is None else join_2x2(x.unflatten(1, (-1, 4)), grid)
