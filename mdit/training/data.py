"""Rendered samples in memory, and the random changes that training makes to them."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..labelmap import CLASSES

HIDDEN = 255  # a label that no class has: the model sees no class there
SIDES = tuple((CLASSES.index(f"l_{part}"), CLASSES.index(f"r_{part}")) for part in ("eye", "brow", "ear"))


class Faces:
    """All samples of a folder of shards: image (N, S, S, 3) and label (N, S, S) uint8, captions, attributes."""

    def __init__(self, folder: Path):
        self.folder, self.shards = Path(folder), []
        self.captions: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.images = self.labels = torch.empty(0, dtype=torch.uint8)
        self.rescan()
        if not self.shards:
            raise FileNotFoundError(f"no finished shard (*.npz) in {folder}: render some with "
                                    "python -m mdit.training.render")

    def __len__(self) -> int:
        return len(self.captions)

    def rescan(self) -> None:
        """Adds the shards that were finished since the last look."""
        new = sorted(path for path in self.folder.glob("*.npz")
                     if path not in self.shards and not path.name.endswith(".part.npz"))
        if not new:
            return
        self.shards += new
        images, labels = [], []
        for path in new:
            with np.load(path) as shard:
                images.append(torch.from_numpy(shard["image"]))
                labels.append(torch.from_numpy(shard["label"]))
                self.captions += shard["caption"].tolist()
                self.attributes += [json.loads(line) for line in shard["attributes"].tolist()]
        self.images = torch.cat([self.images, *images] if len(self.images) else images)
        self.labels = torch.cat([self.labels, *labels] if len(self.labels) else labels)

    def pictures(self, index: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1]."""
        return self.images[index].permute(0, 3, 1, 2).float() / 127.5 - 1


def swap_sides(labels: Tensor) -> Tensor:
    """Label maps with left and right eyes, brows and ears exchanged."""
    table = torch.arange(256, dtype=torch.uint8)
    for left, right in SIDES:
        table[left], table[right] = right, left
    return table[labels.long()]


def mirror(images: Tensor, labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors the chosen (B,) samples; their left stays the person's own left."""
    images, labels = images.clone(), labels.clone()
    images[chosen] = images[chosen].flip(-1)
    labels[chosen] = swap_sides(labels[chosen].flip(-1))
    return images, labels


@dataclass(frozen=True)
class LabelNoise:
    """Shares of samples whose sides are exchanged, that miss some classes, and the chance of each class then."""
    swap: float = 0.15
    incomplete: float = 0.15
    missing: float = 0.2

    def __call__(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        batch = labels.shape[0]
        swapped = torch.rand(batch, generator=rng) < self.swap
        labels = torch.where(swapped.view(-1, 1, 1), swap_sides(labels), labels)
        hidden = torch.rand(batch, 256, generator=rng) < self.missing
        hidden &= torch.rand(batch, 1, generator=rng) < self.incomplete
        return labels.masked_fill(hidden.gather(1, labels.flatten(1).long()).view_as(labels), HIDDEN)
