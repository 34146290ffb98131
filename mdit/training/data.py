"""Which samples make a step's batch, and the random numbers of a step."""
from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import swap_sides


def make_step_rng(*seed: int) -> np.random.Generator:
    """The random numbers of one step: a function of the run's seed, the step and the process alone.

    An interrupted run therefore resumes exactly as it would have continued.
    """
    return np.random.default_rng(seed)


def make_torch_rng(rng: np.random.Generator, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2 ** 63)))


class BatchOrder:
    """The samples of each step's batch: a function of seed and step.

    Only samples of equal `keys` share a batch. Each epoch shows every sample, in an order of its own. The last batch
    of a key is filled up with samples of the same key.
    """

    def __init__(self, keys: Sequence[Hashable], batch: int, seed: int):
        if len(keys) < batch:
            raise ValueError(f"data: it holds {len(keys)} samples, fewer than a batch of {batch}: add samples or lower "
                             "the batch")
        groups: dict[Hashable, list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(key, []).append(i)
        self.groups = [np.array(group) for group in groups.values()]
        self.batch = batch
        self.seed = seed
        self.epoch = -1
        self.batches = np.empty(0)

    def __call__(self, step: int) -> Tensor:
        """Indices (batch,) of step `step`."""
        epoch, position = divmod(step, len(self))
        if epoch != self.epoch:
            self.epoch = epoch
            self.batches = self.shuffle(epoch)
        return torch.from_numpy(self.batches[position])

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return sum(map(self.count, self.groups))

    def count(self, group: np.ndarray) -> int:
        """Number of batches of a group in an epoch."""
        return -(-len(group) // self.batch)

    def shuffle(self, epoch: int) -> np.ndarray:
        """All batches of an epoch, (batches, batch)."""
        rng = make_step_rng(self.seed, epoch)
        parts = [np.resize(rng.permutation(group), (self.count(group), self.batch)) for group in self.groups]
        return rng.permutation(np.concatenate(parts))


def choose_view(sample: dict[str, Tensor], rng: torch.Generator, mirror: float = 0.0) -> dict[str, Tensor]:
    """A sample with one of its captions, by chance mirrored: the person's left stays the person's left.

    Captions after the first are `context.1`, `pooled.1` and so on. What was encoded of the mirrored image is
    `latent.mirrored` and `mask_latent.mirrored`. Nothing is drawn where there is no choice.
    """
    view = dict(sample)
    count = sum(name.partition(".")[0] == "context" for name in sample)
    number = int(torch.randint(count, (), generator=rng)) if count > 1 else 0
    replaced = [("context", f"context.{number}"), ("pooled", f"pooled.{number}")]
    if mirror and torch.rand((), generator=rng) < mirror:
        replaced += [("latent", "latent.mirrored"), ("mask_latent", "mask_latent.mirrored")]
        view["labels"] = swap_sides(sample["labels"].flip(-1))
    return view | {name: sample[other] for name, other in replaced if other in sample}


def fit_length(x: Tensor, length: int) -> Tensor:
    """Tokens (L, D) cut or padded with zeros to (length, D)."""
    return F.pad(x, (0, 0, 0, length - x.shape[0]))


def stack_tensors(samples: Sequence[dict[str, Tensor]], names: Sequence[str]) -> dict[str, Tensor]:
    """Batches of the named tensors, as far as the samples have them."""
    stacked = {}
    for name in names:
        if name in samples[0]:
            stacked[name] = torch.stack([sample[name] for sample in samples])
    return stacked


def stack_text(samples: Sequence[dict[str, Tensor]]) -> Tensor:
    """The samples' `context` (L, D), padded to the longest, (B, L, D)."""
    length = max(len(sample["context"]) for sample in samples)
    return torch.stack([fit_length(sample["context"], length) for sample in samples])
