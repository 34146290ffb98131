"""FLUX.2 dev, Klein 4B and Klein 9B (docs/design/adapters.md, sections 3 to 5.1)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.model import Flux

from ...prompt import Prompt
from .base import Family
from .flux import COPIED_NORMS, FluxStream, make_blocks, measure_flux


class Flux2Stream(FluxStream):
    """On the host's class Flux, where all blocks of a kind share one modulation and no text is pooled."""

    def make_ids(self, positions: Tensor, transformer_options: dict) -> Tensor:
        return F.pad(super().make_ids(positions, transformer_options), (0, 1))  # the fourth counts text tokens

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> dict[str, Sequence[Tensor]]:
        """Shift, scale and gate of each kind of blocks, each (b, 1, d)."""
        network = self.network
        vec = self.embed_time(t, prompt, dtype)
        shared = {"double": network.double_stream_modulation_img, "single": network.single_stream_modulation}
        return {kind: layer.lin(F.silu(vec)).unsqueeze(1).chunk(layer.multiplier, dim=-1)
                for kind, layer in shared.items()}

    def modulate(self, i: int, vec: dict[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        kind, _ = self.kinds[i]
        return vec[kind]


def is_flux2(network: nn.Module) -> bool:
    return type(network) is Flux and network.params.global_modulation and network.params.vec_in_dim is None


def list_flux2_inputs(network: nn.Module) -> tuple[str, ...]:
    return ("guidance",) if network.params.guidance_embed else ()


FAMILY = Family(
    key="flux2",
    title="FLUX.2",
    matches=is_flux2,
    measure=measure_flux,
    blocks=make_blocks(6, 3),
    stream=Flux2Stream,
    text_layers={"context": "txt_in"},
    list_prompt_inputs=list_flux2_inputs,
    clip_type="FLUX2",
    text_tokens=512,
    copied_norms=COPIED_NORMS,
)
