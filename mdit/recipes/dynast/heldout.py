"""Images that a generator draws from held-out faces' maps with the appearance of other faces."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...datasets import FaceDataset
from ...evaluation.metrics.exemplar_agreement import ExemplarAgreement
from .pairs import make_edge_label

BATCH = 16

# seg (B, nc, S, S), ref_image (B, 3, S, S), ref_seg, all uint8 -> images and warped exemplars (B, S, S, 3) uint8
Synthesize = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class HeldOut(NamedTuple):
    """N faces, all uint8.

    images: (N, 3, S, S).
    labels: (N, S, S).
    segs: the labels that DynaST reads, (N, nc, S, S).
    """
    images: Tensor
    labels: Tensor
    segs: Tensor

    @classmethod
    def take_first(cls, faces: FaceDataset, count: int) -> HeldOut:
        """The first `count` faces."""
        samples = [faces[i] for i in range(min(count, len(faces)))]
        images = torch.stack([sample["image"] for sample in samples])
        labels = torch.stack([sample["labels"] for sample in samples])
        return cls(images, labels, torch.stack([make_edge_label(sample, i) for i, sample in enumerate(samples)]))

    def draw(self, exemplars: Sequence[int], synthesize: Synthesize) -> tuple[Tensor, Tensor]:
        """Images (n, S, S, 3) of the first n maps with the appearance of the exemplars, and warped exemplars."""
        images = []
        warped = []
        segs = self.segs[:len(exemplars)]
        for seg, chosen in zip(segs.split(BATCH), torch.as_tensor(exemplars).split(BATCH)):
            drawn = synthesize(seg, self.images[chosen], self.segs[chosen])
            images.append(drawn[0])
            warped.append(drawn[1])
        return torch.cat(images), torch.cat(warped)

    def measure_agreement(self, images: Tensor, exemplars: Sequence[int]) -> dict[str, dict[str, float]]:
        """Figures of `ExemplarAgreement` for images of the first maps."""
        scores = ExemplarAgreement()
        faces = self.images.movedim(1, -1).numpy()
        labels = self.labels.numpy()
        for i, (image, k) in enumerate(zip(images.numpy(), exemplars)):
            scores.update(image, labels[i], faces[k], labels[k])
        return scores.compute()

    def choose_exemplars(self, count: int) -> list[int]:
        """The exemplar of each of the first faces: the face after it, which is another person."""
        return [(i + 1) % len(self.images) for i in range(min(count, len(self.images)))]
