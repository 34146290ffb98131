"""The generator of DynaST (spec section 6; Liu et al., arXiv 2207.06124), names as in the published file."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import comfy.ops

from ..shared.candidates import Grid, children, propagated
from .block import Block, Exemplar
from .config import COARSEST, LEVELS, DynaSTConfig
from .layers import Encoder, SPADEResBlock, conv3, upsampler

LAYOUT = torch.channels_last  # a position's numbers side by side: convolutions and gathers read them faster


class Synthesis(NamedTuple):
    """image: (B, 3, H, W) in -1..1. warped: the exemplar carried over, by the finest block, or, where all were asked
    for, by each block from the coarsest on, (B, 3, H / 2^(L-1), W / 2^(L-1)). conf: (B, 1, H, W) in 0..1, how much of
    each pixel's attention found its match."""
    image: Tensor
    warped: list[Tensor]
    conf: Tensor


class DynaST(nn.Module):
    """operations: where the layers come from, torch.nn to train them. For training, too, convolutions named in
    `weights.SPECTRAL` get torch's spectral_norm, which gives the published names."""

    def __init__(self, config: DynaSTConfig, operations=comfy.ops.disable_weight_init):
        super().__init__()
        self.config = config
        widths = [config.width(level) for level in reversed(LEVELS)]
        side = config.size // COARSEST
        self.pos_embed = nn.Parameter(torch.empty(1, config.position_width(4), side, side))
        self.encoder_q = Encoder(config.nc, widths, operations)
        self.encoder_kv = Encoder(config.nc + 3, widths, operations)
        for level in LEVELS:
            self._add_level(level, operations)
        self.decoder_10 = nn.Sequential(conv3(config.ngf, 3, operations))

    def _add_level(self, level: int, operations):
        config = self.config
        c, nc = config.width(level), config.nc
        self.add_module(f"embed_q{level}", SPADEResBlock(c, nc, operations))
        self.add_module(f"embed_kv{level}", SPADEResBlock(c, nc + 3, operations))
        blocks = (Block(config, level, operations) for _ in range(config.blocks))
        self.add_module(f"transformer_{level}", nn.ModuleList(blocks))
        if level == LEVELS[0]:
            return
        self.add_module(f"embed_{level}", SPADEResBlock(c, nc, operations))  # the published code never uses embed_1
        step = f"{level + 1}{level}"
        for name in ("decoder_", "decoder_q", "decoder_kv"):
            self.add_module(name + step, upsampler(config.width(level + 1), c, operations, nn.ReLU()))
        self.add_module(f"pos_{step}", upsampler(config.position_width(level + 1), config.position_width(level),
                                                 operations, nn.LeakyReLU(0.01)))

    @property
    def steps(self) -> int:
        """How often `forward` calls `advance`."""
        return 2 + len(LEVELS) * self.config.blocks

    def forward(self, label: Tensor, exemplar: Tensor, exemplar_label: Tensor, warp_kept: bool = False,
                warp_all: bool = False, advance: Callable[[], None] = lambda: None) -> Synthesis:
        """label, exemplar_label: (B, nc, H, W) in 0..1. exemplar: (B, 3, H, W) in -1..1. H and W are multiples of 8, of
        at least 16; the positions are stretched to other sizes than they were trained for.

        warp_kept: see `sparse.Asked`. warp_all: every block warps, not the finest alone. advance: called now and then.
        """
        label = label.contiguous(memory_format=LAYOUT)
        reference = torch.cat([exemplar, exemplar_label], dim=1).contiguous(memory_format=LAYOUT)  # (B, 3 + nc, H, W)
        of_label, of_exemplar = self.encoder_q(label), self.encoder_kv(reference)
        advance()
        q = k = positions = x = chosen = None
        warped = []
        for level in LEVELS:
            q = self._embedded("q", level, q, of_label.pop(), label)  # (B, c_L, h, w), h = H / 2^(L-1)
            k = self._embedded("kv", level, k, of_exemplar.pop(), reference)  # (B, c_L, h, w)
            positions = self._positions(level, positions, q)  # (1, p_L, h, w)
            picture = F.avg_pool2d(exemplar, 2 ** (level - 1))  # (B, 3, h, w)
            z = q
            for i, block in enumerate(self.get_submodule(f"transformer_{level}")):
                finest = level == LEVELS[-1] and i == self.config.blocks - 1
                seen = Exemplar(k, positions, picture if finest or warp_all else None)
                z, found = block(z, label, seen, candidates(level, i, chosen, q.shape[-2:]),
                                 None if finest else self.config.top_k, warp_kept)
                chosen, conf = found.chosen, found.conf
                warped.append(found.warped)
                advance()
            del seen, found  # the peak lies in what follows
            x = self._decoded(level, x, z, label)  # (B, c_L, h, w)
        advance()
        return Synthesis(self.decoder_10(x).tanh(), warped if warp_all else warped[-1:], conf)

    def _embedded(self, side: str, level: int, coarser: Tensor | None, encoded: Tensor, by: Tensor) -> Tensor:
        """Features of the queries (side "q") or of the keys ("kv"), from the encoder's and from the coarser level's."""
        if coarser is not None:
            encoded = self.get_submodule(f"decoder_{side}{level + 1}{level}")(coarser) + encoded
        return self.get_submodule(f"embed_{side}{level}")(encoded, by)

    def _positions(self, level: int, coarser: Tensor | None, like: Tensor) -> Tensor:
        if coarser is not None:
            return self.get_submodule(f"pos_{level + 1}{level}")(coarser)
        positions = comfy.ops.cast_to_input(self.pos_embed, like)
        if positions.shape[-2:] != like.shape[-2:]:
            positions = F.interpolate(positions, like.shape[-2:], mode="bilinear")
        return positions.contiguous(memory_format=LAYOUT)

    def _decoded(self, level: int, coarser: Tensor | None, z: Tensor, label: Tensor) -> Tensor:
        """The picture's features: what a level found, joined to what the coarser ones drew."""
        if coarser is None:
            return z
        join = self.get_submodule(f"embed_{level}" if level > 1 else "embed_q1")  # as the published code does
        return join(self.get_submodule(f"decoder_{level + 1}{level}")(coarser) + z, label)


def candidates(level: int, block: int, chosen: Tensor | None, grid: Grid) -> Tensor | None:
    """What a block of a level looks at, for what the block before it chose; None for everything."""
    if level == LEVELS[0]:
        return None
    if block == 0:
        return children(chosen, grid[1] // 2)
    return propagated(chosen, grid, grid)
