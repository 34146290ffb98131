"""Sizes of a DynaST generator, derived from its file (docs/design/dynast.md, sections 6 and 7.1)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..shared.weight_files import check_count, read_shape

LEVELS = (4, 3, 2, 1)  # from 1/8 of the side of the image to all of it
COARSEST = 2 ** (LEVELS[0] - 1)  # pixels along a side of one position of level 4
TOP_K = 4  # this and the next: of the published code
SMOOTH = 0.01


@dataclass(frozen=True)
class DynaSTConfig:
    """Sizes of a generator. A file does not contain the last two.

    nc: channels of a label.
    ngf, pos_dim, prune_dim: channels of features, position map and pruning projections at level 1.
    max_multi: largest factor on these channels at coarser levels.
    blocks: attention blocks of each level.
    size: side of the image in pixels that the position map was trained for.
    top_k: candidates that a query hands on.
    smooth: temperature of the attention in the three finer levels.
    """
    nc: int
    ngf: int = 64
    max_multi: int = 8
    pos_dim: int = 16
    prune_dim: int = 16
    blocks: int = 2
    size: int = 256
    top_k: int = TOP_K
    smooth: float = SMOOTH

    def get_width(self, level: int) -> int:
        """c_L, channels of the features of a level."""
        return self.ngf * self._get_factor(level)

    def get_position_width(self, level: int) -> int:
        """p_L, channels of the position map of a level."""
        return self.pos_dim * self._get_factor(level)

    def get_prune_width(self, level: int) -> int:
        """r_L, channels of the pruning projections of a level."""
        return self.prune_dim * self._get_factor(level)

    def _get_factor(self, level: int) -> int:
        return min(2 ** (level - 1), self.max_multi)


def read_config(weights: Mapping[str, Tensor], top_k: int = TOP_K, smooth: float = SMOOTH) -> DynaSTConfig:
    """Reads the sizes from a state dict with the published names.

    Raises ValueError, without the name of the file, if a tensor that gives a size is missing or of another shape.
    """
    if "encoder_q.layer1.0.weight_orig" not in weights:
        raise ValueError("it is no generator of DynaST, or only a part of one: take latest_net_G.pth")
    ngf, nc, _, _ = read_shape(weights, "encoder_q.layer1.0.weight_orig", 4)
    multi = read_shape(weights, "encoder_q.layer4.0.bias", 1)[0] // ngf
    positions = read_shape(weights, "pos_embed", 4)
    prune = read_shape(weights, "transformer_1.0.f_prune.weight", 4)[0]
    blocks = {name.split(".")[1] for name in weights if name.startswith("transformer_4.")}
    check_count(len(blocks), weights, "attention blocks")
    return DynaSTConfig(nc=nc, ngf=ngf, max_multi=multi, pos_dim=positions[1] // max(1, multi), prune_dim=prune,
                        blocks=len(blocks), size=COARSEST * positions[-1], top_k=top_k, smooth=smooth)
