"""The renderer's shards as training samples."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..labelmap import CLASSES

HIDDEN = 255  # a label that no class has: the model sees nothing there
PAIRS = [(CLASSES.index(f"l_{part}"), CLASSES.index(f"r_{part}")) for part in ("eye", "brow", "ear")]


def side_swap() -> Tensor:
    """Label -> label with the person's left and right exchanged, (256,) uint8."""
    table = torch.arange(256, dtype=torch.uint8)
    for left, right in PAIRS:
        table[left], table[right] = right, left
    return table


class Faces:
    """All shards of a folder in memory: images and labels (n, S, S[, 3]) uint8, captions, attributes."""

    def __init__(self, folder: Path):
        self.folder, self.read = folder, set()
        self.images, self.labels, self.captions, self.attributes = [], [], [], []
        self.refresh()
        if not self.read:
            raise FileNotFoundError(f"data: no shards (*.npz) in {folder}: render some with "
                                    "`python -m mdit.training.render`")

    def refresh(self):
        """Reads shards that were finished since the last call."""
        for path in sorted(set(self.folder.glob("*.npz")) - self.read):
            with np.load(path) as shard:
                self.images.append(torch.from_numpy(shard["image"]))
                self.labels.append(torch.from_numpy(shard["label"]))
                self.captions += shard["caption"].tolist()
                self.attributes += [json.loads(text) for text in shard["attributes"].tolist()]
            self.read.add(path)
        self.images, self.labels = [torch.cat(self.images)], [torch.cat(self.labels)]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """Images (b, 3, S, S) in -1..1, labels (b, S, S) uint8 and captions."""
        images = self.images[0][index].permute(0, 3, 1, 2).float() / 127.5 - 1  # (b, 3, S, S)
        return images, self.labels[0][index], [self.captions[i] for i in index.tolist()]


def augment(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors half of the samples; exchanges left and right labels in 15 %, for masks of the other habit; hides
    each class with probability 0.2 in 15 %."""
    batch, swap = len(images), side_swap()

    def chance(p: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) < p

    mirror = chance(0.5).view(-1, 1, 1)
    images = torch.where(mirror[:, None], images.flip(-1), images)
    labels = torch.where(mirror, swap[labels.flip(-1).long()], labels)
    labels = torch.where(chance(0.15).view(-1, 1, 1), swap[labels.long()], labels)
    hidden = chance(0.2, len(CLASSES)) & chance(0.15, 1)  # (b, classes)
    hide = hidden.gather(1, labels.flatten(1).long()).view_as(labels)
    return images, labels.masked_fill(hide, HIDDEN)
