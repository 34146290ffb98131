"""The generator of DynaST (Liu et al., arXiv 2207.06124; docs/design/dynast.md, section 6).

Layers carry the names of the published file.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops

from ..shared.candidates import Grid2D, expand_to_children, propagate_candidates
from .block import Block, ExemplarFeatures
from .config import COARSEST, LEVELS, DynaSTConfig
from .layers import Encoder, SPADEResBlock, make_conv3, make_upsampler

LAYOUT = torch.channels_last  # the channels of a position are contiguous: convolutions and gathers read them faster


class Synthesis(NamedTuple):
    """What the generator gives.

    image: (B, 3, H, W) in -1..1.
    warped: the exemplar, warped by the finest block; with warp_all by each block, the coarsest first,
        (B, 3, H / 2^(L-1), W / 2^(L-1)).
    conf: (B, 1, H, W) in 0..1, the attention that the finest block kept.
    """
    image: Tensor
    warped: list[Tensor]
    conf: Tensor


class DynaST(nn.Module):
    """The generator.

    operations: the module that the layers come from; torch.nn for training. A trainer also applies torch's
    spectral_norm to the convolutions named in `weights.SPECTRAL`, which gives the published names.
    """

    def __init__(self, config: DynaSTConfig, operations=comfy.ops.disable_weight_init):
        super().__init__()
        self.config = config
        widths = [config.get_width(level) for level in reversed(LEVELS)]
        side = config.size // COARSEST
        self.pos_embed = nn.Parameter(torch.empty(1, config.get_position_width(4), side, side))
        self.encoder_q = Encoder(config.nc, widths, operations)
        self.encoder_kv = Encoder(config.nc + 3, widths, operations)
        for level in LEVELS:
            self._add_level(level, operations)
        self.decoder_10 = nn.Sequential(make_conv3(config.ngf, 3, operations))

    def _add_level(self, level: int, operations):
        config = self.config
        c = config.get_width(level)
        nc = config.nc
        self.add_module(f"embed_q{level}", SPADEResBlock(c, nc, operations))
        self.add_module(f"embed_kv{level}", SPADEResBlock(c, nc + 3, operations))
        blocks = (Block(config, level, operations) for _ in range(config.blocks))
        self.add_module(f"transformer_{level}", nn.ModuleList(blocks))
        if level == LEVELS[0]:
            return
        self.add_module(f"embed_{level}", SPADEResBlock(c, nc, operations))  # the published code never uses embed_1
        step = f"{level + 1}{level}"
        for name in ("decoder_", "decoder_q", "decoder_kv"):
            self.add_module(name + step, make_upsampler(config.get_width(level + 1), c, operations, nn.ReLU()))
        position_widths = (config.get_position_width(level + 1), config.get_position_width(level))
        self.add_module(f"pos_{step}", make_upsampler(position_widths[0], position_widths[1], operations,
                                                      nn.LeakyReLU(0.01)))

    @property
    def steps(self) -> int:
        """How often `forward` calls `advance`."""
        return 2 + len(LEVELS) * self.config.blocks

    def forward(self, label: Tensor, exemplar: Tensor, exemplar_label: Tensor, warp_kept: bool = False,
                warp_all: bool = False, advance: Callable[[], None] = lambda: None) -> Synthesis:
        """Renders the layout of a label with the appearance of an exemplar.

        label, exemplar_label: (B, nc, H, W) in 0..1. exemplar: (B, 3, H, W) in -1..1. H and W are multiples of 8, at
        least 16; the position map is interpolated if they are not the trained ones. warp_kept: see `SparseOptions`.
        warp_all: every block warps the exemplar, not only the finest. advance: called for a progress bar.
        """
        label = label.contiguous(memory_format=LAYOUT)
        reference = torch.cat([exemplar, exemplar_label], dim=1).contiguous(memory_format=LAYOUT)  # (B, 3 + nc, H, W)
        label_features = self.encoder_q(label)
        exemplar_features = self.encoder_kv(reference)
        advance()
        q = k = positions = x = chosen = None
        warped = []
        for level in LEVELS:
            q = self._embed("q", level, q, label_features.pop(), label)  # (B, c_L, h, w), h = H / 2^(L-1)
            k = self._embed("kv", level, k, exemplar_features.pop(), reference)  # (B, c_L, h, w)
            positions = self._make_positions(level, positions, q)  # (1, p_L, h, w)
            image = F.avg_pool2d(exemplar, 2 ** (level - 1))  # (B, 3, h, w)
            z = q
            for i, block in enumerate(self.get_submodule(f"transformer_{level}")):
                finest = level == LEVELS[-1] and i == self.config.blocks - 1
                read = ExemplarFeatures(k, positions, image if finest or warp_all else None)
                z, found = block(z, label, read, candidates=find_candidates(level, i, chosen, q.shape[-2:]),
                                 top_k=None if finest else self.config.top_k, warp_kept=warp_kept)
                chosen = found.chosen
                conf = found.conf
                warped.append(found.warped)
                advance()
            del read, found  # memory peaks in the next line
            x = self._decode(level, x, z, label)  # (B, c_L, h, w)
        advance()
        return Synthesis(self.decoder_10(x).tanh(), warped if warp_all else warped[-1:], conf)

    def _embed(self, side: str, level: int, coarser: Tensor | None, encoded: Tensor, by: Tensor) -> Tensor:
        """Features of the queries (side "q") or keys ("kv"), from those of the encoder and of the coarser level."""
        if coarser is not None:
            encoded = self.get_submodule(f"decoder_{side}{level + 1}{level}")(coarser) + encoded
        return self.get_submodule(f"embed_{side}{level}")(encoded, by)

    def _make_positions(self, level: int, coarser: Tensor | None, like: Tensor) -> Tensor:
        if coarser is not None:
            return self.get_submodule(f"pos_{level + 1}{level}")(coarser)
        positions = comfy.ops.cast_to_input(self.pos_embed, like)
        if positions.shape[-2:] != like.shape[-2:]:
            positions = F.interpolate(positions, like.shape[-2:], mode="bilinear")
        return positions.contiguous(memory_format=LAYOUT)

    def _decode(self, level: int, coarser: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        """Features of the image: those of a level, joined to those of the coarser levels."""
        if coarser is None:
            return z
        join = self.get_submodule(f"embed_{level}" if level > 1 else "embed_q1")  # as the published code does
        return join(self.get_submodule(f"decoder_{level + 1}{level}")(coarser) + z, label)


def find_candidates(level: int, block: int, chosen: Tensor | None, grid: Grid2D) -> Tensor | None:
    """The candidates of a block, from those that the previous block chose; None for all positions."""
    if level == LEVELS[0]:
        return None
    if block == 0:
        return expand_to_children(chosen, grid[1] // 2)
    return propagate_candidates(chosen, grid, grid)
