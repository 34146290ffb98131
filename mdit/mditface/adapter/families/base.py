"""What a backbone is: everything that differs between the host's models that read masks by an adapter."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch.nn as nn

from ..streams import MaskStream

EMBEDDING = "embed"  # the layer before the first block
MODULATION = "mod"  # the layer that no adapter has terms for unless its settings ask for it


class Layer(NamedTuple):
    """A linear layer of a block that may have a term.

    path: of the module in its block.
    n_in, n_out: widths of input and output, in widths of the model; the first output width is the usual one.
    after_keys: whether the block's keys and values do without the layer. The last block needs no such layer.
    """
    path: str
    n_in: int | Fraction
    n_out: tuple[int | Fraction, ...]
    after_keys: bool = False


class Blocks(NamedTuple):
    """The blocks of one kind.

    path: of block {} in the network.
    layers: by their names in adapter files.
    """
    path: str
    layers: dict[str, Layer]


@dataclass(frozen=True)
class Family:
    """One backbone, as the object that every part of the pack reads.

    key: its name in adapter files and settings.
    title: the models' names, for messages.
    matches: whether a network is of this family.
    measure: of a network: width of its tokens, and numbers of double and single blocks.
    blocks: by kind (`config.KINDS`).
    stream: the mask stream on its blocks.
    text_layers: the layers that read a sample's text, by the sample's tensors: `context` (L, D), `pooled` (P,).
    list_prompt_inputs: those of `y`, `guidance` and `num_tokens` that a network takes in addition to the text tokens.
    clip_type: of its text encoders, a name of the host's CLIPType.
    text_tokens: least number of text tokens: the host adds zeros before a shorter text.
    text_mask: whether the network can be told which tokens only fill a shorter text of a batch.
    guidance: what a network that embeds guidance gets while it trains, unless the settings say otherwise.
    conditioned: whether a mask may have a size of its own and the prompt may modulate it (EasyControl).
    copied_norms: modules whose input the blocks later change in place, which training copies.
    check: raises ValueError for a network of the family that masks do not fit.
    """
    key: str
    title: str
    matches: Callable[[nn.Module], bool]
    measure: Callable[[nn.Module], tuple[int, tuple[int, int]]]
    blocks: dict[str, Blocks]
    stream: type[MaskStream]
    text_layers: dict[str, str]
    list_prompt_inputs: Callable[[nn.Module], tuple[str, ...]]
    clip_type: str
    text_tokens: int = 0
    text_mask: bool = False
    guidance: float = 1.0
    conditioned: bool = False
    copied_norms: tuple[str, ...] = ()
    check: Callable[[nn.Module], None] = lambda network: None

    def find_layer(self, kind: str, name: str) -> Layer | None:
        """A layer of a kind of blocks; None where there is none of that name."""
        blocks = self.blocks.get(kind)
        return None if blocks is None else blocks.layers.get(name)
