"""Chroma (docs/design/adapters.md, sections 3 to 5.1)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.chroma.model import Chroma
from comfy.ldm.flux.layers import timestep_embedding

from ...prompt import Prompt
from .base import Family
from .flux import COPIED_NORMS, FluxStream, make_blocks, measure_flux

MODULATIONS = 344  # as the host's class counts the shifts, scales and gates, for Chroma's 19 + 38 blocks
TIME_FEATURES = 16  # of time and of guidance
INDEX_FEATURES = 32
GUIDANCE = 0.0  # what the host sends unless a node says otherwise


class ChromaStream(FluxStream):
    """On the host's class Chroma: one small network computes the modulation of all blocks."""

    def make_ids(self, positions: Tensor, transformer_options: dict) -> Tensor:
        return F.pad(positions, (1, 0))  # the class knows no options for positions

    def make_vector(self, t: Tensor, prompt: Prompt | None, dtype: torch.dtype) -> Tensor:
        """All shifts, scales and gates of the network, (1, MODULATIONS, d)."""
        times = timestep_embedding(t, TIME_FEATURES)
        guidances = timestep_embedding(torch.full_like(t, GUIDANCE), TIME_FEATURES)
        both = torch.cat((times, guidances), dim=1)[:, None].expand(-1, MODULATIONS, -1)
        index = timestep_embedding(torch.arange(MODULATIONS, device=t.device), INDEX_FEATURES)[None]
        return self.network.distilled_guidance_layer(torch.cat((both, index), dim=-1).to(dtype))

    def modulate(self, i: int, vec: Tensor) -> Sequence[Tensor]:
        kind, index = self.kinds[i]
        if kind == "single":
            return list_parts(self.network.get_modulations(vec, "single", idx=index))
        attention, mlp = self.network.get_modulations(vec, "double_img", idx=index)
        return list_parts(attention) + list_parts(mlp)


def list_parts(modulation) -> list[Tensor]:
    return [modulation.shift, modulation.scale, modulation.gate]


def is_chroma(network: nn.Module) -> bool:
    return type(network) is Chroma


def list_chroma_inputs(network: nn.Module) -> tuple[str, ...]:
    return ("guidance",)


FAMILY = Family(
    key="chroma",
    title="Chroma",
    matches=is_chroma,
    measure=measure_flux,
    blocks=make_blocks(4, 4),
    stream=ChromaStream,
    text_layers={"context": "txt_in"},
    list_prompt_inputs=list_chroma_inputs,
    clip_type="CHROMA",
    guidance=GUIDANCE,
    copied_norms=COPIED_NORMS,
)
