"""The appearance of an exemplar in a model that follows a mask (experimental; docs/design/dynast.md, section 13).

Each image token reads a few of the exemplar's tokens, found where the exemplar's mask is like the target's. Neither
masks nor exemplar depend on the time. Candidates, keys and values are therefore static; queries and the pruning test
are not.
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
    """What is compared of a target or of an exemplar.

    tokens: of the label maps, (b, N, mask_features).
    positions: (N, 2), as fractions of the image.
    grid: sides of the tokens' grid.
    """
    tokens: Tensor
    positions: Tensor
    grid: Grid2D

    def to(self, device: torch.device, dtype: torch.dtype) -> MatchSide:
        return MatchSide(self.tokens.to(device, dtype), self.positions.to(device), self.grid)


class ExemplarTokens(NamedTuple):
    """The input of the exemplar's static pass.

    target: N tokens of the target's label map.
    labels: M tokens of the exemplar's label map.
    patches: those of the exemplar's image, (b, M, C * patch^2).
    """
    target: MatchSide
    labels: MatchSide
    patches: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> ExemplarTokens:
        return ExemplarTokens(self.target.to(device, dtype), self.labels.to(device, dtype),
                              self.patches.to(device, dtype))


class SparseRead(nn.Module):
    """One block that reads the exemplar: DynaST's attention unit, modulated by time and text like its block.

    With a modulation of zero it does not change the tokens. Values and output have no bias, so an image token whose
    candidates are all pruned stays as it is.
    """

    def __init__(self, width: int, dtype=None, device=None, operations=None):
        super().__init__()
        layers = {"dtype": dtype, "device": device}
        self.mod = operations.Linear(width, 3 * width, **layers)
        self.query = operations.Linear(width, width + PRUNE, **layers)
        self.key = operations.Linear(width, width + PRUNE, **layers)
        self.value = operations.Linear(width, width, bias=False, **layers)
        self.proj = operations.Linear(width, width, bias=False, **layers)

    def make_keys(self, tokens: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (b, 1, M, MATCH + d + PRUNE) and values (b, 1, M, d) of the exemplar's tokens (b, M, d)."""
        tokens = layer_norm(tokens)
        return torch.cat((match, self.key(tokens)), dim=-1).unsqueeze(1), self.value(tokens).unsqueeze(1)

    def forward(self, img: Tensor, vec: Tensor, exemplar: ExemplarKeys, index: int) -> Tensor:
        """img (B, N, d), vec (B, d) -> (B, N, d); `index` counts the blocks that read."""
        B, _, width = img.shape
        shift, scale, gate = self.mod(F.silu(vec)).unsqueeze(1).chunk(3, dim=-1)
        query, prune = self.query(modulate(layer_norm(img), shift, scale)).split((width, PRUNE), dim=-1)
        keys, values = (repeat_rows(x.squeeze(1), B) for x in exemplar.kv[index])
        match = repeat_rows(exemplar.match, B)
        candidates = repeat_rows(exemplar.candidates, B)
        score = torch.cat((match, query / math.sqrt(width)), dim=-1)  # (B, N, MATCH + d)
        key_score, key_prune = keys.split((score.shape[-1], PRUNE), dim=-1)
        key = Projections(key_score, key_prune)
        found = attend_sparsely(Projections(score, prune), key, values, candidates, SparseOptions(tau=1.0))
        return torch.addcmul(img, gate * exemplar.strength, self.proj(found.output.to(img)))


class ExemplarBranch(nn.Module):
    """What a model with `exemplar_blocks` has in addition to its streams.

    f and g, the paper's symbols, make the features by which target and exemplar are compared.
    """

    def __init__(self, config, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.blocks = config.exemplar_blocks
        self.count = config.exemplar_candidates
        compared = config.mask_features + 4 * OCTAVES
        patch = config.in_channels * config.patch ** 2
        self.f = operations.Linear(compared, MATCH, bias=False, **factory)
        self.g = operations.Linear(compared, MATCH, bias=False, **factory)
        self.embed = nn.Sequential(
            operations.Linear(patch + config.mask_features, config.width, **factory), nn.SiLU(),
            operations.Linear(config.width, config.width, **factory))
        self.reads = nn.ModuleList([SparseRead(config.width, operations=operations, **factory) for _ in self.blocks])

    def run_static_path(self, tokens: ExemplarTokens) -> tuple[tuple[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """The candidates (b, N, 5k) with the target's features (b, N, MATCH), and each reading block's keys and values.
        """
        target, labels, patches = tokens
        query = self.f(make_features(target))  # (b, N, MATCH)
        key = self.g(make_features(labels))  # (b, M, MATCH)
        candidates = find_candidates(query, key, (target.grid, labels.grid), self.count)
        embedded = self.embed(torch.cat((patches, labels.tokens), dim=-1))  # (b, M, d)
        return (candidates, query), (read.make_keys(embedded, key) for read in self.reads)

    def forward(self, block: int, img: Tensor, vec: Tensor, mask_rows: Sequence[MaskRows]) -> Tensor:
        """The image tokens (B, N, d) after a block, which have read the exemplars if it is one that reads."""
        if block not in self.blocks or all(part.exemplar is None for part in mask_rows):
            return img
        index = self.blocks.index(block)
        read = []
        for rows, _, _, exemplar in mask_rows:
            part = img[rows]
            read.append(part if exemplar is None else self.reads[index](part, vec[rows], exemplar, index))
        return torch.cat(read)


def make_features(side: MatchSide) -> Tensor:
    """The label tokens and their positions, each part of unit length, (b, N, mask_features + 4 * OCTAVES)."""
    octaves = torch.arange(OCTAVES, device=side.positions.device)
    angles = (side.positions.unsqueeze(-1) * math.pi * 2 ** octaves).flatten(1)  # (N, 2 * OCTAVES)
    damped = torch.stack((angles.cos(), angles.sin())) * (2.0 ** (-octaves / 2)).repeat(2)
    position = F.normalize(damped.transpose(0, 1).flatten(1), dim=-1).to(side.tokens)
    return torch.cat((F.normalize(side.tokens, dim=-1), position.expand(side.tokens.shape[0], -1, -1)), dim=-1)


@torch.no_grad()
def find_candidates(query: Tensor, key: Tensor, grids: tuple[Grid2D, Grid2D], k: int) -> Tensor:
    """The keys that are most similar to each of N queries: candidates (b, N, 5k), some of them several times.

    query: (b, N, r), key: (b, M, r), on their grids. The search is DynaST's: all pairs on a pooled grid, then level by
    level the children of the best candidates, and the candidates of the neighbours.
    """
    b = max(query.shape[0], key.shape[0])
    levels = max(1, math.ceil(math.log2(max(grids[0] + grids[1]) / COARSE)))
    *query_levels, (coarse, _) = build_pyramid(repeat_rows(query, b), grids[0], levels)
    *key_levels, (coarse_keys, key_grid) = build_pyramid(repeat_rows(key, b), grids[1], levels)
    candidates = select_most_similar(coarse, coarse_keys, None, min(k, coarse_keys.shape[1]))
    for level in reversed(range(levels)):
        queries, grid = query_levels[level]
        keys, finer_grid = key_levels[level]
        children = expand_to_children(candidates, key_grid[1])  # (b, N / 4, 4k)
        key_grid = finer_grid
        quads = split_2x2(queries, grid).flatten(1, 2)
        best = select_most_similar(quads, keys, children, min(k, children.shape[-1]))
        own = join_2x2(best.unflatten(1, (-1, 4)), grid)  # (b, N, k)
        near = propagate_candidates(own, grid, key_grid)  # (b, N, 5k)
        if level:
            candidates = select_most_similar(queries, keys, near, own.shape[-1])
    return crop_candidates(near, (grid, key_grid), grids)


def select_most_similar(query: Tensor, key: Tensor, candidates: Tensor | None, k: int) -> Tensor:
    """The k best candidates of each query, (b, N, k); the shapes are those of `attend_sparsely`."""
    unread = key[..., :1]  # only the choice is needed
    queries = Projections(query, query[..., :1])
    return attend_sparsely(queries, Projections(key, unread), unread, candidates, SparseOptions(tau=1.0, top_k=k)
                           ).chosen


def build_pyramid(x: Tensor, grid: Grid2D, levels: int) -> list[tuple[Tensor, Grid2D]]:
    """x (b, N, r) on its grid, then on grids of half the side each, `levels` times: the finest first.

    The grid is padded with copies of its border, so that every level has even sides.
    """
    rows, columns = (-side % 2 ** levels for side in grid)
    found = [F.pad(x.float().mT.unflatten(2, grid), (0, columns, 0, rows), mode="replicate")]
    for _ in range(levels):
        found.append(F.avg_pool2d(found[-1], 2))
    return [(level.flatten(2).mT, tuple(level.shape[-2:])) for level in found]


def crop_candidates(candidates: Tensor, padded: tuple[Grid2D, Grid2D], grids: tuple[Grid2D, Grid2D]) -> Tensor:
    """Candidates on the padded grids of queries and keys -> on the grids; a copy stands for its original."""
    (query_rows, query_columns), (rows, columns) = grids
    padded_queries, padded_keys = padded
    candidates = candidates.unflatten(1, padded_queries)[:, :query_rows, :query_columns].flatten(1, 2)
    y = candidates // padded_keys[1]
    x = candidates % padded_keys[1]
    return y.clamp(max=rows - 1) * columns + x.clamp(max=columns - 1)
