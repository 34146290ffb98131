"""Changes to images and label maps on their way into training."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..labelmap import resize_nearest, swap_sides

HIDDEN = 255  # a label without a class: the model sees no class there


def normalize(images: Tensor) -> Tensor:
    """uint8 -> floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def mirror(images: Tensor, labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors the chosen (B,) samples. The person's left stays the person's left."""
    images = images.clone()
    labels = labels.clone()
    images[chosen] = images[chosen].flip(-1)
    labels[chosen] = swap_sides(labels[chosen].flip(-1))
    return images, labels


def mirror_sample(sample: dict[str, Any]) -> dict[str, Any]:
    """A mirrored sample of a data set. The person's left stays the person's left."""
    return sample | {"image": sample["image"].flip(-1), "labels": swap_sides(sample["labels"].flip(-1))}


@dataclass(frozen=True)
class LabelNoise:
    """Random faults of label maps, such as those that people paint.

    swap: fraction of the samples whose sides are exchanged.
    incomplete: fraction of the samples in which classes are hidden.
    missing: chance of each class to be hidden in such a sample.
    coarse: fraction of the samples whose map is first reduced to a half or a quarter of its side, so that its outlines
        have steps, as enlarged maps have.
    """
    swap: float = 0.15
    incomplete: float = 0.15
    missing: float = 0.2
    coarse: float = 0.0

    def __call__(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        batch = labels.shape[0]
        if self.coarse:
            labels = self.coarsen(labels, rng)
        swapped = torch.rand(batch, generator=rng) < self.swap
        labels = torch.where(swapped.view(-1, 1, 1), swap_sides(labels), labels)
        hidden = torch.rand(batch, 256, generator=rng) < self.missing
        hidden &= torch.rand(batch, 1, generator=rng) < self.incomplete
        return labels.masked_fill(hidden.gather(1, labels.flatten(1).long()).view_as(labels), HIDDEN)

    def coarsen(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Some maps with the pixels of a half or a quarter of the side."""
        side = labels.shape[-1]
        draws = torch.rand(len(labels), generator=rng)
        for ratio, chosen in ((2, draws < self.coarse / 2), (4, draws >= 1 - self.coarse / 2)):
            small = resize_nearest(labels[chosen], side // ratio, side // ratio)
            labels = labels.index_put((chosen,), resize_nearest(small, side, side))
        return labels
