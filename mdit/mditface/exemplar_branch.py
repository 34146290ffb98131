"""The look of an exemplar inside a model that follows a mask (experimental; DynaST spec section 13).

Each image token reads a few of the exemplar's tokens, found where the exemplar's mask is like the target's. Neither
masks nor exemplar see the time, so candidates, keys and values are static; queries and the pruning test are not.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..shared.candidates import Grid2D, expand_to_children, join_2x2, propagate_candidates, split_2x2
from ..shared.norm import layer_norm, modulate
from ..shared.sparse_attention import Projections, SparseOptions, attend_sparsely
from .attention import ExemplarKeys, MaskRows, repeat_rows
from .config import MATCH, PRUNE

OCTAVES = 4
COARSE = 32  # the longest side, in tokens, of a grid on which all pairs are compared; DynaST's coarsest level


class MatchSide(NamedTuple):
    """Tokens of label maps (b, N, mask_features) on a grid, and their places (N, 2), as shares of the whole picture."""
    tokens: Tensor
    places: Tensor
    grid: Grid2D

    def to(self, device: torch.device, dtype: torch.dtype) -> MatchSide:
        return MatchSide(self.tokens.to(device, dtype), self.places.to(device), self.grid)


class ExemplarTokens(NamedTuple):
    """N tokens of the target's label map, M of the exemplar's, and the patches of its picture (b, M, C * p * p)."""
    target: MatchSide
    labels: MatchSide
    picture: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> ExemplarTokens:
        return ExemplarTokens(self.target.to(device, dtype), self.labels.to(device, dtype),
                              self.picture.to(device, dtype))


class SparseRead(nn.Module):
    """One block's look at the exemplar: DynaST's attention unit, modulated by time and text like its block.

    With a modulation of zero it changes nothing in the tokens. Values and output have no bias, so that an image token
    all of whose candidates are pruned stays as it is.
    """

    def __init__(self, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        layers = {"dtype": dtype, "device": device}
        self.mod = operations.Linear(width, 3 * width, **layers)
        self.query = operations.Linear(width, width + PRUNE, **layers)
        self.key = operations.Linear(width, width + PRUNE, **layers)
        self.value = operations.Linear(width, width, bias=False, **layers)
        self.proj = operations.Linear(width, width, bias=False, **layers)

    def static(self, tokens: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (b, 1, M, MATCH + d + PRUNE) and values (b, 1, M, d) of the exemplar's tokens (b, M, d)."""
        tokens = layer_norm(tokens)
        return torch.cat((match, self.key(tokens)), dim=-1).unsqueeze(1), self.value(tokens).unsqueeze(1)

    def forward(self, img: Tensor, vec: Tensor, exemplar: ExemplarKeys, index: int) -> Tensor:
        """img (B, N, d), vec (B, d) -> (B, N, d); `index` counts the blocks that read."""
        B, width = img.shape[0], img.shape[-1]
        shift, scale, gate = self.mod(F.silu(vec)).unsqueeze(1).chunk(3, dim=-1)
        query, prune = self.query(modulate(layer_norm(img), shift, scale)).split((width, PRUNE), dim=-1)
        keys, values = (repeat_rows(x.squeeze(1), B) for x in exemplar.kv[index])
        match, candidates = repeat_rows(exemplar.match, B), repeat_rows(exemplar.candidates, B)
        score = torch.cat((match, query / math.sqrt(width)), dim=-1)  # (B, N, MATCH + d)
        key = Projections(*keys.split((score.shape[-1], PRUNE), dim=-1))
        found = attend_sparsely(Projections(score, prune), key, values, candidates, SparseOptions(tau=1.0))
        return torch.addcmul(img, gate * exemplar.strength, self.proj(found.output.to(img)))


class ExemplarBranch(nn.Module):
    """What a model with `exemplar_blocks` has beside its streams. f and g, the paper's symbols, make the features in
    which target and exemplar are compared."""

    def __init__(self, config, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.blocks, self.count = config.exemplar_blocks, config.exemplar_candidates
        place, patch = 4 * OCTAVES, config.in_channels * config.patch ** 2
        self.f = operations.Linear(config.mask_features + place, MATCH, bias=False, **factory)
        self.g = operations.Linear(config.mask_features + place, MATCH, bias=False, **factory)
        self.embed = nn.Sequential(
            operations.Linear(patch + config.mask_features, config.width, **factory), nn.SiLU(),
            operations.Linear(config.width, config.width, **factory))
        self.reads = nn.ModuleList([SparseRead(config.width, operations=operations, **factory) for _ in self.blocks])

    def static_path(self, tokens: ExemplarTokens) -> tuple[tuple[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """The candidates (b, N, 5K) with the target's features (b, N, MATCH), and each reading block's keys and values.
        """
        target, labels, picture = tokens
        wanted, offered = self.f(features(target)), self.g(features(labels))  # (b, N, MATCH), (b, M, MATCH)
        candidates = correspond(wanted, offered, (target.grid, labels.grid), self.count)
        embedded = self.embed(torch.cat((picture, labels.tokens), dim=-1))  # (b, M, d)
        return (candidates, wanted), (read.static(embedded, offered) for read in self.reads)

    def forward(self, block: int, img: Tensor, vec: Tensor, masks: Sequence[MaskRows]) -> Tensor:
        """The image tokens (B, N, d) after a block, when they have looked at the exemplars."""
        if block not in self.blocks or all(part.exemplar is None for part in masks):
            return img
        index = self.blocks.index(block)
        return torch.cat([img[part.rows] if part.exemplar is None else
                          self.reads[index](img[part.rows], vec[part.rows], part.exemplar, index) for part in masks])


def features(side: MatchSide) -> Tensor:
    """n(label tokens) beside n(places), each of unit length, (b, N, mask_features + 4 * OCTAVES)."""
    octaves = torch.arange(OCTAVES, device=side.places.device)
    angles = (side.places.unsqueeze(-1) * math.pi * 2 ** octaves).flatten(1)  # (N, 2 * OCTAVES)
    damped = torch.stack((angles.cos(), angles.sin())) * (2.0 ** (-octaves / 2)).repeat(2)
    place = F.normalize(damped.transpose(0, 1).flatten(1), dim=-1).to(side.tokens)
    return torch.cat((F.normalize(side.tokens, dim=-1), place.expand(side.tokens.shape[0], -1, -1)), dim=-1)


@torch.no_grad()
def correspond(query: Tensor, key: Tensor, grids: tuple[Grid2D, Grid2D], k: int) -> Tensor:
    """Where each of N queries finds the keys that are most like it: candidates (b, N, 5k), with multiplicity.

    query: (b, N, r), key: (b, M, r), on their grids. The order is DynaST's (section 6.4): all pairs on a pooled grid,
    then level by level the children of the best, and what the neighbours found.
    """
    b = max(query.shape[0], key.shape[0])
    levels = max(1, math.ceil(math.log2(max(*grids[0], *grids[1]) / COARSE)))
    *finer, (coarse, _) = pyramid(repeat_rows(query, b), grids[0], levels)
    *finer_keys, (coarse_keys, key_grid) = pyramid(repeat_rows(key, b), grids[1], levels)
    candidates = most_like(coarse, coarse_keys, None, min(k, coarse_keys.shape[1]))
    for level in reversed(range(levels)):
        (queries, grid), (keys, finer_grid) = finer[level], finer_keys[level]
        offspring = expand_to_children(candidates, key_grid[1])  # (b, N / 4, 4k)
        inside = most_like(split_2x2(queries, grid).flatten(1, 2), keys, offspring, min(k, offspring.shape[-1]))
        own = join_2x2(inside.unflatten(1, (-1, 4)), grid)  # (b, N, k)
        key_grid, near = finer_grid, propagate_candidates(own, grid, finer_grid)  # (b, N, 5k)
        if level:
            candidates = most_like(queries, keys, near, own.shape[-1])
    return cropped(near, (grid, key_grid), grids)


def most_like(query: Tensor, key: Tensor, candidates: Tensor | None, k: int) -> Tensor:
    """The k best candidates of each query, (b, N, k); the shapes are those of `attend_sparsely`."""
    unread = query[..., :1], key[..., :1]  # only the choice is asked for
    sides = Projections(query, unread[0]), Projections(key, unread[1])
    return attend_sparsely(*sides, unread[1], candidates, SparseOptions(tau=1.0, top_k=k)).chosen


def pyramid(x: Tensor, grid: Grid2D, levels: int) -> list[tuple[Tensor, Grid2D]]:
    """x (b, N, r), its grid filled up with copies of its border to halve so often, and halved: the finest first."""
    rows, columns = (-side % 2 ** levels for side in grid)
    found = [F.pad(x.float().mT.unflatten(2, grid), (0, columns, 0, rows), mode="replicate")]
    for _ in range(levels):
        found.append(F.avg_pool2d(found[-1], 2))
    return [(level.flatten(2).mT, tuple(level.shape[-2:])) for level in found]


def cropped(candidates: Tensor, filled: tuple[Grid2D, Grid2D], grids: tuple[Grid2D, Grid2D]) -> Tensor:
    """Candidates on the filled grids of queries and keys -> on the grids themselves: a copy's place is its origin's."""
    (h, w), (rows, columns) = grids
    candidates = candidates.unflatten(1, filled[0])[:, :h, :w].flatten(1, 2)
    y, x = candidates // filled[1][1], candidates % filled[1][1]
    return y.clamp(max=rows - 1) * columns + x.clamp(max=columns - 1)
