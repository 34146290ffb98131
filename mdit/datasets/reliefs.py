"""Label maps with their relief: all renders of a folder that were drawn with --relief, in memory."""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..labelmap import CLASSES
from .renders import find_shards, join, open_shard
from .survey import survey

FAR, NEAR = 0.02, 0.98  # quantiles of a figure's depth that become 0 and 1
ARRAYS = ("label", "depth", "normal")


class ReliefBatch(NamedTuple):
    """Label maps and what they stand for.

    labels: (B, S, S) uint8. depth: (B, S, S), -inf where nothing is. normals: (B, 3, S, S), zero where nothing is.
    """
    labels: Tensor
    depth: Tensor
    normals: Tensor


class Reliefs:
    """All samples of a folder of shards: labels (N, S, S) uint8, depth (N, S, S) and normals (N, 3, S, S) float16.

    Depth is scaled for each sample: `FAR` and `NEAR` of the figure become 0 and 1. Raises FileNotFoundError for a
    folder without shards, ValueError for shards that are broken, have no relief or several sizes.
    """

    def __init__(self, folder: Path):
        files = find_shards(folder, " --relief")
        shards = survey(folder, files, read_relief_shard, "shard")
        sides = {shard["label"].shape[1:] for shard in shards}
        if len(sides) > 1:
            raise ValueError(f"the shards in {folder} have label maps of several sizes {sorted(sides)}: "
                             "use one folder for each size")
        self.labels = torch.from_numpy(join(shards, "label"))
        self.depth = torch.from_numpy(join(shards, "depth"))
        self.normals = torch.from_numpy(join(shards, "normal"))

    def __len__(self) -> int:
        return len(self.labels)

    def get_batch(self, index: Tensor) -> ReliefBatch:
        return ReliefBatch(self.labels[index], self.depth[index].float(), self.normals[index].float())


def read_relief_shard(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard as `Reliefs` holds them. Raises ValueError, naming the file, for a broken one."""
    label, depth, normal = open_shard(file, ARRAYS).values()
    if depth.shape != label.shape or normal.shape != (*label.shape, 3):
        raise ValueError(f"{file}: labels {label.shape}, depth {depth.shape} and normals {normal.shape} do not fit "
                         "together")
    if (top := label.max(initial=0)) >= len(CLASSES):
        raise ValueError(f"{file}: label values up to {top}, there are classes for 0 to {len(CLASSES) - 1}")
    scaled = np.stack(list(map(scale_depth, depth, label)))
    return {"label": label, "depth": scaled, "normal": np.ascontiguousarray(normal.transpose(0, 3, 1, 2))}


def scale_depth(depth: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Depth (S, S) float16 in units of the figure's own range."""
    figure = depth[(label > 0) & np.isfinite(depth)].astype(np.float32)
    if not len(figure):
        return depth
    far, near = np.quantile(figure, (FAR, NEAR))
    return ((depth.astype(np.float32) - far) / max(near - far, 1e-3)).astype(np.float16)
