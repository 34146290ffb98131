"""The condition of a joint stream: mask tokens that read text and image, too (docs/design/adapters.md, section 5.7)."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..attention import AttentionCall
from ..cache import StaticEntry, compact
from ..mask import BoundMask
from ..reductions import EXACT, Reduction
from ..tokens import MaskTokens
from .mixers import OnePicture
from .streams import Inputs, MaskStream


class BoundCondition(BoundMask):
    """A bound mask whose tokens pass the blocks beside the image: one for each image token, and all are read.

    modulation: how many numbers modulate the condition in all blocks.
    """

    def __init__(self, reference, latents: torch.Size, model, layout, batch_index: list[int] | None, *,
                 mixer: OnePicture, modulation: int):
        self.mixer = mixer
        self.modulation = modulation
        super().__init__(reference, latents, model, layout, batch_index)

    def encode_maps(self, height: int, width: int) -> Tensor:
        """The pictures of the label maps at this size in pixels, (b * pictures, C, h, w)."""
        if self.mixer.pictures == 1:
            return super().encode_maps(height, width)
        encoded = self.reference.mask.encode_pictures(height, width, self.mixer.drawing, self.mixer.draw)
        numbers = torch.tensor(encoded.numbers).view(-1, self.mixer.pictures)
        return encoded.latents[numbers[self.maps].flatten()]

    def get_tokens(self, area: tuple | None, reduction: Reduction | None = None) -> tuple[MaskTokens, bytes]:
        return super().get_tokens(area, EXACT)

    def plan_bytes(self, area: tuple | None, itemsize: int, radius: int) -> int:
        tokens, _ = self.get_tokens(area)
        return tokens.tokens.nbytes // self.mixer.pictures * self.mixer.kept + self.modulation * itemsize

    def list_notes(self) -> list[str]:
        note = (f"{self.mixer.title}: {self.reference.mask.kind} read and computed in every step, without a token "
                "reduction; stored: its encoded form and the modulation, which no step changes")
        if self.mixer.pictures > 1:
            distinct = len(self.latent.unique(dim=0))
            note += f"; of {len(self.latent)} pictures of the label map {distinct} differ, and only these are encoded"
        return [*super().list_notes(), note]


class ConditionEntry(StaticEntry):
    """What is exact to keep of a condition: first what its tokens are mixed of, then the modulation of every block."""

    def __init__(self, prepared: Sequence[Tensor], modulations: Iterable[Sequence[Tensor]]):
        super().__init__((), None, eight_bit=False)
        self.device = prepared[0].device
        for parts in (prepared, *modulations):
            self.blocks.append(tuple(compact(x) for x in parts))

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        return tuple(self.read_parts(i))


class Condition:
    """The condition tokens of some rows of a batch, on their way through the blocks of one model call.

    tokens: (B, M, d), after the last block that was left.
    strength: factor of the weights with which the condition and the rest read each other.
    """

    def __init__(self, stream: MaskStream, tokens: Tensor, pe: Tensor, entry: ConditionEntry, strength: float):
        self.stream = stream
        self.tokens = tokens
        self.pe = pe
        self.entry = entry
        self.strength = strength
        self.index = -1
        self.before = tokens

    @property
    def blocks(self) -> list[tuple[Tensor]]:
        """What a compiled model's code depends on; see `describe_form`."""
        return [(self.tokens,)]

    def enter(self, i: int) -> Inputs:
        """What the attention of block i reads. The block may be called again by another node: nothing changes then."""
        if i != self.index:
            self.index = i
            self.before = self.tokens
        return self.stream.make_modulated_inputs(i, self.before, self.entry[1 + i], self.pe)

    def leave(self, i: int, inputs: Inputs, call: AttentionCall):
        """The condition's own attention, to the keys of the block and of itself, and the rest of block i.

        call: of text and image, for the condition's rows. Keys that other nodes added behind the block's own are for
        text and image alone, and so is their attention mask.
        """
        if i + 1 == self.stream.blocks:
            return
        own = call.q.shape[2]
        k = torch.cat((call.k[:, :, :own], inputs.k), dim=2)
        v = torch.cat((call.v[:, :, :own], inputs.v), dim=2)
        bias = None
        if self.strength != 1:
            bias = k.new_zeros(1, 1, 1, k.shape[2])
            bias[..., :own] = math.log(self.strength)
        self.tokens = inputs.finish(call.kernel(inputs.q, k, v, bias))
