"""Sizes of a DynaST generator, as its file shows them (spec sections 6 and 7.1)."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

LEVELS = (4, 3, 2, 1)  # from 1/8 of the picture's side to all of it
COARSEST = 2 ** (LEVELS[0] - 1)  # pixels along a side of one position of level 4
TOP_K, SMOOTH = 4, 0.01  # of the published code


@dataclass(frozen=True)
class DynaSTConfig:
    """nc: channels of a label. size: side in pixels that the positions were trained for. blocks: of attention, in each
    level. top_k: candidates handed on. smooth: temperature of the three finer levels. The last two show in no file."""
    nc: int
    ngf: int = 64
    max_multi: int = 8
    pos_dim: int = 16
    prune_dim: int = 16
    blocks: int = 2
    size: int = 256
    top_k: int = TOP_K
    smooth: float = SMOOTH

    def width(self, level: int) -> int:
        """c_L, channels of a level's features."""
        return self.ngf * self._multi(level)

    def position_width(self, level: int) -> int:
        """p_L, channels of a level's position map."""
        return self.pos_dim * self._multi(level)

    def prune_width(self, level: int) -> int:
        """r_L, channels of a level's pruning projections."""
        return self.prune_dim * self._multi(level)

    def _multi(self, level: int) -> int:
        return min(2 ** (level - 1), self.max_multi)


def read_config(weights: Mapping[str, Tensor], top_k: int = TOP_K, smooth: float = SMOOTH) -> DynaSTConfig:
    """From a state dict with the published names. Raises ValueError where a tensor that tells a size is missing."""
    try:
        ngf, nc = weights["encoder_q.layer1.0.weight_orig"].shape[:2]
        multi = weights["encoder_q.layer4.0.bias"].shape[0] // ngf
        positions, prune = weights["pos_embed"].shape, weights["transformer_1.0.f_prune.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"it lacks {error}: it is no generator of DynaST, or only a part of one; take "
                         "latest_net_G.pth") from error
    blocks = {name.split(".")[1] for name in weights if name.startswith("transformer_4.")}
    return DynaSTConfig(nc, ngf, multi, positions[1] // multi, prune, len(blocks), COARSEST * positions[-1], top_k,
                        smooth)
