"""Interactions with the features of their phrases, and the position net's input made from them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .interactions import Interaction
from .model import Grounding, InteractDiffusionSizes

Area = tuple[float, float, float, float]
WHOLE_IMAGE: Area = (0.0, 0.0, 1.0, 1.0)
MIN_AREA = 0.001  # fraction of the image; training left out smaller boxes


@dataclass(frozen=True, eq=False)
class EncodedInteractions:
    """Interactions, and the features (3, S, F) of their subjects, actions and objects."""
    interactions: tuple[Interaction, ...]
    features: Tensor

    def check(self, sizes: InteractDiffusionSizes):
        """Raises ValueError if a network of these sizes cannot read them."""
        if len(self.interactions) > sizes.slots:
            raise ValueError(f"interactions: there are {len(self.interactions)}, the weights have room for "
                             f"{sizes.slots}: remove some, or give regions their own by 'Set Interactions'")
        if self.features.shape[-1] != sizes.feature:
            raise ValueError(f"clip: its pooled feature is {self.features.shape[-1]} wide, the weights need "
                             f"{sizes.feature}: connect the CLIP of a Stable Diffusion 1.x model")

    def crop_to(self, area: Area) -> EncodedInteractions:
        """The interactions in an area (x0, y0, x1, y1) of the image, in fractions of that area.

        Boxes are clipped. An interaction is dropped if one of its boxes is nearly gone, as in training.
        """
        if area == WHOLE_IMAGE:
            return self
        x0, y0, x1, y1 = area
        boxes = torch.tensor([[one.subject_box, one.object_box] for one in self.interactions])
        boxes = boxes.reshape(-1, 2, 4)  # (S, 2, 4), also for S = 0: the host limits the negative prompt to areas too
        boxes = (boxes - torch.tensor([x0, y0, x0, y0])) / torch.tensor([x1 - x0, y1 - y0] * 2)
        boxes = boxes.clamp(0, 1)
        box_areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)  # (S, 2)
        visible = (box_areas >= MIN_AREA).all(dim=-1).nonzero().flatten().tolist()
        cropped = []
        for i in visible:
            subject_box, object_box = boxes[i].tolist()
            cropped.append(self.interactions[i]._replace(subject_box=tuple(subject_box), object_box=tuple(object_box)))
        return EncodedInteractions(tuple(cropped), self.features[:, visible])

    def to_grounding(self, sizes: InteractDiffusionSizes) -> Grounding:
        """The position net's input, B = 1. Interaction i is in slot i; the other slots are free."""
        subject_boxes = torch.tensor([one.subject_box for one in self.interactions]).reshape(-1, 4)
        object_boxes = torch.tensor([one.object_box for one in self.interactions]).reshape(-1, 4)
        used = torch.ones(len(self.interactions), 1)
        free = sizes.slots - len(self.interactions)

        def fill_slots(rows: Tensor) -> Tensor:
            return F.pad(rows, (0, 0, 0, free))[None]
        subject, action, object_ = self.features  # (S, F) each
        return Grounding(subject_boxes=fill_slots(subject_boxes), object_boxes=fill_slots(object_boxes),
                         used=fill_slots(used)[..., 0], subject=fill_slots(subject), action=fill_slots(action),
                         object=fill_slots(object_))


def make_empty_interactions(sizes: InteractDiffusionSizes) -> EncodedInteractions:
    """Empty interactions. Their tokens are the null tokens that the unconditional branch reads."""
    return EncodedInteractions((), torch.zeros(3, 0, sizes.feature))


def encode_interactions(clip, interactions: Sequence[Interaction]) -> EncodedInteractions:
    """Encodes each phrase by a host's CLIP: docs/design/interactdiffusion.md, section 4.

    Raises ValueError if there are no interactions, no CLIP, or the CLIP has no pooled feature.
    """
    if not interactions:
        raise ValueError("interactions: there are none: connect 'Draw Interactions', 'Add Interaction' or "
                         "'Interactions from Text'")
    if clip is None:
        raise ValueError("clip: the loaded file has no text encoder: connect another CLIP")
    subjects = [one.subject for one in interactions]
    actions = [one.action for one in interactions]
    objects = [one.object for one in interactions]
    features = {phrase: encode_phrase(clip, phrase) for phrase in dict.fromkeys(subjects + actions + objects)}
    rows = [torch.stack([features[phrase] for phrase in subjects]),
            torch.stack([features[phrase] for phrase in actions]),
            torch.stack([features[phrase] for phrase in objects])]
    return EncodedInteractions(tuple(interactions), torch.stack(rows))


def encode_phrase(clip, phrase: str) -> Tensor:
    """The feature (F,) of a phrase, in float32 on the CPU.

    It is the end-of-text state of the last layer after the final norm, not projected. Clip skip does not change it.
    """
    pooled = clip.encode_from_tokens(clip.tokenize(phrase), return_pooled="unprojected")[1]
    if pooled is None:
        raise ValueError("clip: this text encoder has no pooled feature: connect the CLIP of a Stable Diffusion 1.x "
                         "model")
    return pooled[0].float().cpu()
