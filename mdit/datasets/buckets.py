"""Batches of one size from pictures of many."""
from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .pictures import Size


class Buckets:
    """Common sizes of like area for pictures of any size; each picture takes the one of the nearest aspect.

    sizes: (height, width) of each sample.
    area: pixels that no common size exceeds.
    multiple: divides both sides of the common sizes (VAE factor times patch).
    shapes: the common size of each sample; members: the samples of each common size.
    Raises ValueError for an area without room for one multiple.
    """

    def __init__(self, sizes: Sequence[Size], area: int, multiple: int = 16):
        if area < multiple ** 2:
            raise ValueError(f"an area of {area} pixels holds no picture of {multiple}x{multiple}: give a larger one")
        heights = range(multiple, area // multiple + 1, multiple)
        shapes = [(height, area // height // multiple * multiple) for height in heights]
        aspects = np.array([math.log(height / width) for height, width in shapes])
        nearest = {(height, width): shapes[np.abs(aspects - math.log(height / width)).argmin()]
                   for height, width in set(map(tuple, sizes))}
        self.shapes = [nearest[tuple(size)] for size in sizes]
        self.members: dict[Size, list[int]] = defaultdict(list)
        for index, shape in enumerate(self.shapes):
            self.members[shape].append(index)


class BucketSampler(Sampler[list[int]]):
    """An endless stream of batches, each from one bucket; every sample comes once an epoch.

    All processes share one order of batches and take turns, so none runs out before another; `rank` of `ranks` is
    this one. A bucket's last batch of an epoch may be smaller. `step` counts the batches of this process that are
    done: iteration starts there, and `batches` moves it on.
    """

    def __init__(self, buckets: Buckets, batch: int, seed: int = 0, rank: int = 0, ranks: int = 1):
        if batch < 1 or not 0 <= rank < ranks:
            raise ValueError(f"batch {batch}, rank {rank} of {ranks}: a batch has a sample, ranks count from 0")
        if not buckets.shapes:
            raise ValueError("there is no sample to make batches of")
        self.buckets, self.batch, self.seed, self.rank, self.ranks = buckets, batch, seed, rank, ranks
        self.per_epoch = sum(math.ceil(len(members) / batch) for members in buckets.members.values())
        self.step = 0

    @property
    def epoch(self) -> int:
        """Epoch of the next batch."""
        return (self.step * self.ranks + self.rank) // self.per_epoch

    def order(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, of all processes together."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for members in self.buckets.members.values():
            shuffled = rng.permutation(members).tolist()
            batches += [shuffled[k:k + self.batch] for k in range(0, len(shuffled), self.batch)]
        return [batches[k] for k in rng.permutation(len(batches))]

    def __iter__(self) -> Iterator[list[int]]:
        turns = itertools.count(self.step * self.ranks + self.rank, self.ranks)
        for epoch, group in itertools.groupby(turns, lambda turn: turn // self.per_epoch):
            order = self.order(epoch)
            yield from (order[turn % self.per_epoch] for turn in group)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs for the same continuation; the same on every process."""
        return {"turns": self.step * self.ranks, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the state was taken, exactly so with the same number of processes.

        With another number up to `ranks - 1` batches come again. Raises ValueError where the order would be another.
        """
        for name, value in self._identity().items():
            if state[name] != value:
                raise ValueError(f"the run was stopped with {name} {state[name]}, now it is {value}: go on with the "
                                 "same data, sizes, batch and seed, or start a new run")
        self.step = state["turns"] // self.ranks

    def _identity(self) -> dict[str, Any]:
        shapes = hashlib.sha256(repr(self.buckets.shapes).encode()).hexdigest()
        return {"samples": len(self.buckets.shapes), "shapes": shapes, "batch": self.batch, "seed": self.seed}


def batches(dataset: Dataset, sampler: BucketSampler, workers: int = 0) -> Iterator[dict[str, Any]]:
    """Collated batches without end, from the sampler's step on.

    The sampler's step counts the batches handed out here, not those that the workers have read ahead: its state is
    right at any time.
    """
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate,
                        pin_memory=torch.cuda.is_available())
    for batch in loader:
        sampler.step += 1
        yield batch


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples of one size as a batch: tensors stacked, everything else listed."""
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {key: torch.stack(values) if isinstance(values[0], torch.Tensor) else values
            for key, values in columns.items()}
