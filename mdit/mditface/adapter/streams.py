"""The mask stream on the blocks of a host's network: their own weights plus the adapter's terms
(docs/design/adapters.md, section 5.1).

Every layer is called as a module, so quantised, offloaded and LoRA-patched weights work as in the image stream.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.modules.attention import optimized_attention

from ...shared.origins import name_origin
from ..prompt import Prompt
from ..tokens import MaskTokens
from .config import AdapterConfig
from .terms import AdapterTerms


class Inputs(NamedTuple):
    """What a block's attention reads of the mask tokens, and what follows it.

    q, k, v: (b, H, M, D), after norm and rotation.
    finish: makes the attention's output (b, M, d) the tokens after the block (b, M, d).
    """
    q: Tensor
    k: Tensor
    v: Tensor
    finish: Callable[[Tensor], Tensor]


class MaskStream:
    """The blocks of one network for the mask tokens, with an adapter's terms at a weight.

    A family's subclass sets `lists` and `heads` and defines what raises NotImplementedError here.

    lists: by kind, where the network keeps its blocks, and an attribute that only a block has.
    modules: the blocks, in their order.
    places: for each block the name of the entry of the network's lists that holds it: its own, unless another node
        put one module in place of several blocks.
    has_block_patches: whether the network's forward calls patches of blocks and reads a ControlNet's residuals, by
        which compiled code tells masks apart (see compiled.py).
    """
    lists: dict[str, tuple[str, str]]
    heads: int
    has_block_patches = True

    def __init__(self, network: nn.Module, config: AdapterConfig, terms: AdapterTerms, weight: float):
        self.network = network
        self.config = config
        self.terms = terms
        self.weight = weight
        self.kinds = config.list_blocks()
        self.blocks = len(self.kinds)
        self.modules = []
        self.places = []
        self.find_blocks()

    @property
    def names(self) -> list[tuple[str, int]]:
        """The blocks, in their order, under the names of the host's `patches_replace`."""
        return [(f"{kind}_block", i) for kind, i in self.kinds]

    def find_blocks(self):
        """Finds the blocks, also inside of what another node put in their place; ValueError where some are missing."""
        marks = [mark for _, mark in self.lists.values()]
        strangers = set()
        for kind, (attribute, _) in self.lists.items():
            for i, entry in enumerate(getattr(self.network, attribute)):
                found = find_marked(entry, marks)
                self.modules += found
                self.places += [(f"{kind}_block", i)] * len(found)
                strangers |= {name_origin(type(entry))} if found != [entry] else set()
        if len(self.modules) != self.blocks:
            named = f": {', '.join(sorted(strangers))}" if strangers else ""
            raise ValueError(f"model: {self.blocks} blocks should read the mask, but {len(self.modules)} were found, "
                             f"because another node replaced blocks{named}. Remove that node")

    def place_patches(self, patches: dict[tuple[str, int], Callable], grid: tuple[int, int], options: dict) -> dict:
        """Transformer options of a call with these patches of the blocks, for an image of `grid` tokens."""
        replace = options.get("patches_replace", {})
        return {**options, "patches_replace": {**replace, "dit": {**replace.get("dit", {}), **patches}}}

    def get_list_entry(self, i: int) -> nn.Module:
        """The entry of the network's lists under block i's name, as it is now."""
        kind, index = self.kinds[i]
        attribute, _ = self.lists[kind]
        return getattr(self.network, attribute)[index]

    def start(self, tokens: MaskTokens, features: Tensor, transformer_options: dict) -> tuple[Tensor, Tensor | None]:
        """The mask tokens before the first block (b, M, d), and the rotation of their queries and keys, if any.

        features: the tokens' values on the network's device, (b, M, features).
        """
        raise NotImplementedError

    def compute_rotation(self, positions: Tensor, transformer_options: dict) -> Tensor | None:
        """The rotation (1, 1, M, D/2, 2, 2) of keys at positions (M, 2); None where keys are not rotated."""
        raise NotImplementedError

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        """What modulates the blocks, such as a vector (b, d), at time t (1,).

        `prompt` is None where it does not modulate the mask.
        """
        raise NotImplementedError

    def make_inputs(self, i: int, msk: Tensor, vec: Tensor, pe: Tensor | None) -> Inputs:
        """The inputs of block i's attention, for mask tokens (b, M, d), `vector`'s result and `start`'s rotation."""
        raise NotImplementedError

    def run_block(self, i: int, args: dict) -> dict:
        """Calls block i on text and image as the network's forward does, with the arguments of a block patch."""
        raise NotImplementedError

    def choose_block_call(self, i: int, original: Callable) -> Callable:
        """What a block patch calls instead of block i's own patch; `original` is the host's."""
        return original

    def run_static_path(self, tokens: MaskTokens, device: torch.device, dtype: torch.dtype, prompt: Prompt | None,
                    transformer_options: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each block's mask keys and values (b, H, M, D), after norm and rotation."""
        msk, pe = self.start(tokens, tokens.tokens.to(device, dtype), transformer_options)  # (b, M, d)
        vec = self.make_vector(torch.zeros(1, device=device), prompt, dtype)
        for i in range(self.blocks):
            inputs = self.make_inputs(i, msk, vec, pe)
            yield inputs.k, inputs.v
            if i + 1 < self.blocks:
                attention = optimized_attention(inputs.q, inputs.k, inputs.v, self.heads, skip_reshape=True)
                msk = inputs.finish(attention)

    def run_layer(self, module: nn.Module, name: str, x: Tensor) -> Tensor:
        """The layer with its term, which may cover the first rows of the output only."""
        y = module(x)
        reads_output = self.config.proj_after and name.endswith(".proj")
        term = self.terms.compute_term(name, y if reads_output else x)
        if term is None:
            return y
        return y + F.pad(term, (0, y.shape[-1] - term.shape[-1])) * self.weight

    def make_modulation(self, module: nn.Module, name: str, vec: Tensor, count: int) -> tuple[Tensor, ...]:
        """`count` shifts, scales and gates, each (b, 1, d), for the vector (b, d)."""
        return self.run_layer(module, name, F.silu(vec)).unsqueeze(1).chunk(count, dim=-1)

    def run_mlp(self, layers: tuple[nn.Module, Callable, nn.Module], name: str, x: Tensor) -> Tensor:
        """The block's MLP of a layer, an activation and a layer."""
        fc1, activation, fc2 = layers
        hidden = activation(self.run_layer(fc1, f"{name}.fc1", x))
        return self.run_layer(fc2, f"{name}.fc2", hidden)


def find_marked(module: nn.Module, marks: list[str]) -> list[nn.Module]:
    """The module itself if it has one of these attributes, else those inside it that have one, in their order."""
    if any(hasattr(module, mark) for mark in marks):
        return [module]
    found = []
    for child in module.children():
        found += find_marked(child, marks)
    return found
