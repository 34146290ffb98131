"""The attention block of DynaST (spec section 6.3)."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..shared.candidates import unwindowed, windowed
from ..shared.sparse_attention import Asked, Attended, Side, attend
from .config import LEVELS, DynaSTConfig
from .layers import SPADE, ResBlock, positional_norm

EPSILON = 1e-10


class Exemplar(NamedTuple):
    """What the queries of a level look at: `features` (B, c_L, H, W), their `positions` (1, p_L, H, W), which the
    queries share, and the `picture` (B, 3, H, W) to warp, None for none."""
    features: Tensor
    positions: Tensor
    picture: Tensor | None


class Block(nn.Module):
    """Features (B, c_L, H, W) look for theirs in the exemplar; where they find none, their own are modulated by the
    label. `dense`: at the coarsest level all positions are candidates."""

    def __init__(self, config: DynaSTConfig, level: int, operations):
        super().__init__()
        c, r = config.width(level), config.prune_width(level)
        d = c + config.position_width(level)
        self.dense = level == LEVELS[0]
        self.tau = d ** 0.5 if self.dense else config.smooth
        self.f, self.g = (operations.Conv2d(d, d, 1) for _ in range(2))
        self.h = operations.Conv2d(c, c, 1)
        self.f_prune, self.g_prune = (operations.Conv2d(d, r, 1) for _ in range(2))
        self.spade = SPADE(c, config.nc, operations)
        self.res_block = ResBlock(c, operations)

    def forward(self, x: Tensor, label: Tensor, exemplar: Exemplar, candidates: Tensor | None, top_k: int | None,
                warp_kept: bool) -> tuple[Tensor, Attended]:
        """Returns the new features, and what the queries found, its pictures as (B, C, H, W).

        candidates: (B, n, C), for each 2 x 2 window or for each position; None for all. top_k: how many candidates to
        hand on; None for none.
        """
        found = self.look(x, exemplar, candidates, Asked(self.tau, top_k, warp_kept))
        y = found.output + (1 - found.conf) * self.spade(x, label) + x
        return self.res_block(positional_norm(y)), found

    def look(self, x: Tensor, exemplar: Exemplar, candidates: Tensor | None, asked: Asked) -> Attended:
        """What the queries find, but for `chosen` as (B, C, H, W)."""
        grid = x.shape[-2:]
        queries = projected(x, exemplar.positions, self.f, self.f_prune)
        keys = projected(exemplar.features, exemplar.positions, self.g, self.g_prune)
        values = rows(self.h(exemplar.features))
        picture = None if exemplar.picture is None else rows(exemplar.picture)
        if self.dense:  # a matter of gradients alone
            queries = queries._replace(prune=queries.prune / queries.prune.shape[-1])
        in_windows = candidates is not None and candidates.shape[1] < queries.score.shape[1]
        if in_windows:
            queries = Side(*(windowed(part, grid).flatten(1, 2) for part in queries))
        found = attend(queries, keys, values, candidates, asked, picture)
        if in_windows:
            found = Attended(*(None if part is None else unwindowed(part.unflatten(1, (-1, 4)), grid)
                               for part in found))
        output, conf, warped = (None if part is None else part.mT.unflatten(2, grid) for part in found[:3])
        return Attended(output, conf, warped, found.chosen)


def projected(x: Tensor, positions: Tensor, score: nn.Module, prune: nn.Module) -> Side:
    """Of features (B, c, H, W), of length 1, and their positions (1, p, H, W)."""
    x = x / (x.norm(dim=1, keepdim=True) + EPSILON)
    x = torch.cat([x, positions.expand(len(x), -1, -1, -1)], dim=1)  # (B, d, H, W)
    return Side(rows(score(x)), rows(prune(x)))


def rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).mT
