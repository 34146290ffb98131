"""What differs between the host's models whose blocks are FLUX's, for the slow definition in reference.py."""
from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from comfy.ldm.flux.layers import timestep_embedding

embed = partial(timestep_embedding, dim=256)


class Flux:
    """FLUX.1: each block makes its own shifts, scales and gates of one vector."""
    guidance = 3.5  # the host's default
    mask_guidance = 1.0
    reference_step = 1  # along the first coordinate, from one reference latent to the next

    def make_vector(self, net, t: Tensor, guidance: Tensor, y: Tensor) -> Tensor:
        return net.time_in(embed(t)) + net.guidance_in(embed(guidance)) + net.vector_in(y)

    def modulate_double(self, net, vec: Tensor, i: int, stream: str):
        return getattr(net.double_blocks[i], f"{stream}_mod")(vec)

    def modulate_single(self, net, vec: Tensor, i: int):
        return net.single_blocks[i].modulation(vec)[0]

    def modulate_last(self, net, vec: Tensor):
        return vec

    def list_text_positions(self, count: int) -> Tensor:
        """(1, count, axes)"""
        return torch.zeros(1, count, 3)

    def cut(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The patches (B, N, 4 * C) of a latent (B, C, h, w), and their positions (1, N, axes)."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="circular")
        cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h/2, 2, w/2, 2)
        rows, columns = (torch.arange(cells.shape[dim], dtype=torch.float32) for dim in (2, 4))
        places = F.pad(torch.cartesian_prod(rows, columns), (1, self.list_text_positions(1).shape[-1] - 3))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), places[None]


class Flux2(Flux):
    """FLUX.2: the blocks of a kind share one modulation, and the fourth coordinate counts the text."""
    reference_step = 10

    def make_vector(self, net, t: Tensor, guidance: Tensor, y: Tensor) -> Tensor:
        return net.time_in(embed(t)) + net.guidance_in(embed(guidance))

    def modulate_double(self, net, vec: Tensor, i: int, stream: str):
        return getattr(net, f"double_stream_modulation_{stream}")(vec)

    def modulate_single(self, net, vec: Tensor, i: int):
        return net.single_stream_modulation(vec)[0]

    def list_text_positions(self, count: int) -> Tensor:
        return F.pad(torch.arange(count, dtype=torch.float32)[None, :, None], (3, 0))


class Klein(Flux2):
    """FLUX.2 Klein reads no guidance."""

    def make_vector(self, net, t: Tensor, guidance: Tensor, y: Tensor) -> Tensor:
        return net.time_in(embed(t))


class Chroma(Flux):
    """Chroma: a network makes all shifts, scales and gates at once."""
    guidance = 0.0
    mask_guidance = 0.0

    def make_vector(self, net, t: Tensor, guidance: Tensor, y: Tensor) -> Tensor:
        """(B, 344, d): of the single blocks, then of the image and of the text in double blocks, then of the end."""
        times, guidances = (timestep_embedding(x, 16)[:, None].expand(-1, 344, -1) for x in (t, guidance))
        index = timestep_embedding(torch.arange(344), 32).expand(len(t), -1, -1)
        return net.distilled_guidance_layer(torch.cat((times, guidances, index), dim=2))

    def modulate_double(self, net, vec: Tensor, i: int, stream: str):
        return net.get_modulations(vec, f"double_{stream}", idx=i)

    def modulate_single(self, net, vec: Tensor, i: int):
        return net.get_modulations(vec, "single", idx=i)

    def modulate_last(self, net, vec: Tensor):
        return net.get_modulations(vec, "final")


FLUX_KINDS = {"flux": Flux(), "flux2": Flux2(), "klein": Klein(), "chroma": Chroma()}
