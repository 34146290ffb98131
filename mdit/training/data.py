"""Rendered samples in memory, which of them make a step's batch, and the random changes that training makes to them."""
from __future__ import annotations

import json
import zipfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import CLASSES

HIDDEN = 255  # a label that no class has: the model sees no class there
SIDES = tuple((CLASSES.index(f"l_{part}"), CLASSES.index(f"r_{part}")) for part in ("eye", "brow", "ear"))
ARRAYS = ("image", "label", "caption", "attributes")


class Faces:
    """All samples of a folder of shards: images (N, S, S, 3) and labels (N, S, S) uint8, captions, attributes.

    Raises FileNotFoundError for a folder without shards, ValueError that lists the first ten broken ones.
    """

    def __init__(self, folder: Path):
        paths = sorted(path for path in Path(folder).glob("*.npz") if not path.name.endswith(".part.npz"))
        if not paths:
            raise FileNotFoundError(f"no finished shard (*.npz) in {folder}: render some with "
                                    "python -m mdit.render")
        shards = [read_shard(path) for path in paths]
        broken = [f"{path.name}: {shard}" for path, shard in zip(paths, shards) if isinstance(shard, str)]
        if broken:
            raise ValueError(f"{len(broken)} of {len(paths)} shards in {folder} are broken: {'; '.join(broken[:10])}. "
                             "Delete them and render again")
        sides = {shard["image"].shape[1:3] for shard in shards}
        if len(sides) > 1:
            raise ValueError(f"the shards in {folder} have pictures of several sizes {sorted(sides)}: "
                             "use one folder for each size")
        self.images, self.labels = (torch.from_numpy(np.concatenate([shard[name] for shard in shards]))
                                    for name in ("image", "label"))
        self.captions: list[str] = [text for shard in shards for text in shard["caption"].tolist()]
        self.attributes: list[dict[str, str]] = [
            json.loads(line) for shard in shards for line in shard["attributes"].tolist()]

    def __len__(self) -> int:
        return len(self.captions)

    def pictures(self, index: Tensor) -> Tensor:
        """Images (B, 3, S, S) uint8."""
        return self.images[index].permute(0, 3, 1, 2)


def read_shard(path: Path) -> dict[str, np.ndarray] | str:
    """A shard's arrays, or what is wrong with it."""
    try:
        with np.load(path) as file:
            if missing := [name for name in ARRAYS if name not in file]:
                return f"it lacks {', '.join(missing)}"
            shard = {name: file[name] for name in ARRAYS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        return f"it cannot be read ({error})"
    counts, image, label = {len(array) for array in shard.values()}, shard["image"], shard["label"]
    if len(counts) > 1 or image.shape != (*label.shape, 3) or {image.dtype, label.dtype} != {np.dtype(np.uint8)}:
        return f"images {image.shape} {image.dtype} and labels {label.shape} {label.dtype} do not belong together"
    return shard


def normalise(images: Tensor) -> Tensor:
    """uint8 -> floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def step_rng(*seed: int) -> np.random.Generator:
    """The random numbers of one step: a function of the run's seed, the step and the process alone, so that a run
    that was interrupted goes on exactly as it would have."""
    return np.random.default_rng(seed)


def torch_rng(rng: np.random.Generator, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2 ** 63)))


class BatchOrder:
    """Which samples make each step's batch: a function of seed and step.

    Samples of equal `keys` share a batch. Each epoch shows every sample, in an order of its own; a key's last batch is
    filled up with samples of the same key.
    """

    def __init__(self, keys: Sequence[Hashable], batch: int, seed: int):
        if len(keys) < batch:
            raise ValueError(f"data: it holds {len(keys)} samples, fewer than a batch of {batch}: add samples or lower "
                             "the batch")
        groups: dict[Hashable, list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(key, []).append(i)
        self.groups, self.batch, self.seed = [np.array(group) for group in groups.values()], batch, seed
        self.epoch, self.batches = -1, np.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Indices (batch,) of step `step`."""
        per_epoch = sum(-(-len(group) // self.batch) for group in self.groups)
        epoch, place = divmod(step, per_epoch)
        if epoch != self.epoch:
            self.epoch, self.batches = epoch, self.shuffled(epoch)
        return torch.from_numpy(self.batches[place])

    def shuffled(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, (batches, batch)."""
        rng = step_rng(self.seed, epoch)
        parts = [np.resize(rng.permutation(group), (-(-len(group) // self.batch), self.batch)) for group in self.groups]
        return rng.permutation(np.concatenate(parts))


def of_length(x: Tensor, length: int) -> Tensor:
    """Tokens (L, D) cut or padded with zeros to (length, D)."""
    return F.pad(x, (0, 0, 0, length - x.shape[0]))


def stack_text(samples: Sequence[dict[str, Tensor]]) -> Tensor:
    """The samples' `context` (L, D), padded to the longest, (B, L, D)."""
    length = max(len(sample["context"]) for sample in samples)
    return torch.stack([of_length(sample["context"], length) for sample in samples])


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
