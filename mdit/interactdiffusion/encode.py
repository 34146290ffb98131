"""Interactions with the features of their phrases, and what the position net gets of them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .interactions import Interaction
from .model import Grounding, Sizes

Window = tuple[float, float, float, float]
WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
LEAST_AREA = 0.001  # of the picture; training left out smaller boxes


@dataclass(frozen=True, eq=False)
class EncodedInteractions:
    """Interactions and the features (3, N, D) of their subjects, actions and objects."""
    interactions: tuple[Interaction, ...]
    features: Tensor

    def check(self, sizes: Sizes):
        """Raises ValueError where a network of these sizes cannot read them."""
        if len(self.interactions) > sizes.slots:
            raise ValueError(f"interactions: there are {len(self.interactions)}, the weights have room for "
                             f"{sizes.slots}: remove some, or give regions their own by 'Set Interactions'")
        if self.features.shape[-1] != sizes.feature:
            raise ValueError(f"clip: its pooled feature is {self.features.shape[-1]} wide, the weights need "
                             f"{sizes.feature}: connect the CLIP of a Stable Diffusion 1.x model")

    def within(self, window: Window) -> EncodedInteractions:
        """What of them lies in a part of the picture, in fractions of that part: clipped, without those of which a box
        is nearly gone, as pictures were cropped in training."""
        if window == WHOLE:
            return self
        x0, y0, x1, y1 = window
        boxes = torch.tensor([[one.subject_box, one.object_box] for one in self.interactions])
        boxes = boxes.reshape(-1, 2, 4)  # (N, 2, 4), N = 0 too: the host limits the negative prompt like the positive
        boxes = (boxes - torch.tensor([x0, y0, x0, y0])) / torch.tensor([x1 - x0, y1 - y0] * 2)
        boxes = boxes.clamp(0, 1)
        areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)  # (N, 2)
        kept = (areas >= LEAST_AREA).all(dim=-1).nonzero().flatten().tolist()
        placed = tuple(self.interactions[i]._replace(subject_box=tuple(boxes[i, 0].tolist()),
                                                     object_box=tuple(boxes[i, 1].tolist())) for i in kept)
        return EncodedInteractions(placed, self.features[:, kept])

    def ground(self, sizes: Sizes) -> Grounding:
        """The position net's input, B = 1: each interaction in the slot of its place, the others free."""
        free = sizes.slots - len(self.interactions)
        boxes = [torch.tensor([getattr(one, name) for one in self.interactions]).reshape(1, -1, 4)
                 for name in ("subject_box", "object_box")]
        used = torch.ones(1, len(self.interactions))
        features = (part[None] for part in self.features)  # (1, N, D) each
        return Grounding(*(F.pad(x, (0, 0, 0, free)) for x in boxes), F.pad(used, (0, free)),
                         *(F.pad(x, (0, 0, 0, free)) for x in features))


def nothing(sizes: Sizes) -> EncodedInteractions:
    """No interactions: their tokens are the null tokens, which the unconditional branch reads."""
    return EncodedInteractions((), torch.zeros(3, 0, sizes.feature))


def encode(clip, interactions: Sequence[Interaction]) -> EncodedInteractions:
    """Encodes each phrase by a host's CLIP: the end-of-text feature of the last layer, normed, not projected, whatever
    the clip skip (spec section 4).

    Raises ValueError for no interactions, no CLIP, or one without a pooled feature.
    """
    if not interactions:
        raise ValueError("interactions: there are none: connect 'Draw Interactions', 'Add Interaction' or 'Read "
                         "Interactions from Text'")
    if clip is None:
        raise ValueError("clip: the loaded file holds no text encoder: connect another CLIP")
    phrases = {phrase: feature(clip, phrase) for one in interactions for phrase in one[:3]}
    rows = [torch.stack([phrases[one[part]] for one in interactions]) for part in range(3)]
    return EncodedInteractions(tuple(interactions), torch.stack(rows))


def feature(clip, phrase: str) -> Tensor:
    """(D,) in float32 on the CPU."""
    pooled = clip.encode_from_tokens(clip.tokenize(phrase), return_pooled="unprojected")[1]
    if pooled is None:
        raise ValueError("clip: this text encoder has no pooled feature: connect the CLIP of a Stable Diffusion 1.x "
                         "model")
    return pooled[0].float().cpu()
