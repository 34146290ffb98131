"""What a generator makes of held-out faces' maps and other faces' looks."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...datasets import FaceDataset
from ...evaluation.metrics.exemplar_agreement import ExemplarAgreement
from .pairs import edge_label

BATCH = 16

# seg (B, nc, S, S), ref_image (B, 3, S, S), ref_seg, all uint8 -> pictures and warped exemplars (B, S, S, 3) uint8
Synthesise = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class HeldOut(NamedTuple):
    """N faces: images (N, 3, S, S), labels (N, S, S), and what DynaST reads of them, segs (N, nc, S, S), all uint8."""
    images: Tensor
    labels: Tensor
    segs: Tensor

    @classmethod
    def of(cls, faces: FaceDataset, count: int) -> HeldOut:
        """The first ones."""
        samples = [faces[i] for i in range(min(count, len(faces)))]
        segs = [edge_label(sample, i) for i, sample in enumerate(samples)]
        return cls(*(torch.stack([sample[name] for sample in samples]) for name in ("image", "labels")),
                   torch.stack(segs))

    def after(self, exemplars: Sequence[int], synthesise: Synthesise) -> tuple[Tensor, Tensor]:
        """Pictures (n, S, S, 3) in the layouts of the first n faces with the looks of others, and warped exemplars."""
        segs, exemplars = self.segs[:len(exemplars)], torch.as_tensor(exemplars)
        made = [synthesise(seg, self.images[part], self.segs[part])
                for seg, part in zip(segs.split(BATCH), exemplars.split(BATCH))]
        return tuple(map(torch.cat, zip(*made)))

    def agreement(self, pictures: Tensor, exemplars: Sequence[int]) -> dict[str, dict[str, float]]:
        """See metrics.exemplar."""
        scores, images, labels = ExemplarAgreement(), self.images.movedim(1, -1).numpy(), self.labels.numpy()
        for i, (picture, k) in enumerate(zip(pictures.numpy(), exemplars)):
            scores.update(picture, labels[i], images[k], labels[k])
        return scores.compute()

    def next(self, count: int) -> list[int]:
        """For each of the first faces the one after it, as exemplar; another person."""
        return [(i + 1) % len(self.images) for i in range(min(count, len(self.images)))]
