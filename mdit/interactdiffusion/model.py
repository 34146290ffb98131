"""InteractDiffusion's networks: from interactions to tokens, and the gated block that reads them (spec 2 to 7)."""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import CrossAttention, FeedForward, optimized_attention

HEADS = 8  # at every width of SD 1.x; no shape tells
COORDINATES = 4
ROLES = (0, 2, 1)  # the table's row of subject, action and object, in the order of the tokens


class Grounding(NamedTuple):
    """What the position net reads: boxes (B, N, 4), `used` (B, N) 1 or 0 a slot, phrase features (B, N, D)."""
    subject_boxes: Tensor
    object_boxes: Tensor
    used: Tensor
    subject: Tensor
    action: Tensor
    object: Tensor


def between(subject_boxes: Tensor, object_boxes: Tensor) -> Tensor:
    """The action's boxes (..., 4): on each axis the second and the third of the four coordinates (spec section 2)."""
    corners = torch.stack((subject_boxes, object_boxes), dim=-1)  # (..., 4, 2)
    axes = corners.unflatten(-2, (2, 2)).transpose(-3, -2).flatten(-2).sort(dim=-1).values  # (..., 2, 4)
    return axes[..., 1:3].transpose(-2, -1).flatten(-2)


def fourier(boxes: Tensor, frequencies: int) -> Tensor:
    """Boxes (..., 4) -> (..., 8 * frequencies): by frequency, then sine before cosine, then coordinate. The angle has
    no factor pi. In float32 (spec section 3)."""
    bands = 100 ** (torch.arange(frequencies, device=boxes.device) / frequencies)
    angles = bands[:, None] * boxes.float().unsqueeze(-2)  # (..., frequencies, 4)
    return torch.stack((angles.sin(), angles.cos()), dim=-2).flatten(-3)


class Sizes(NamedTuple):
    """Widths of phrase features, box embedding, hidden layer and tokens, the number of slots, and of each fuser, in the
    order of the UNet's transformers, its width."""
    feature: int
    position: int
    hidden: int
    token: int
    slots: int
    fusers: tuple[int, ...]


class PositionNet(nn.Module):
    """Interactions to tokens: InToken and InBedding of the paper (spec sections 5 and 6)."""

    def __init__(self, sizes: Sizes, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.frequencies = sizes.position // (2 * COORDINATES)

        def mlp() -> nn.Sequential:
            widths = (sizes.feature + sizes.position, sizes.hidden, sizes.hidden, sizes.token)
            first, second, third = (operations.Linear(*pair, **factory) for pair in zip(widths, widths[1:]))
            return nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)

        def table(rows: int) -> nn.ModuleDict:
            return nn.ModuleDict({"emb": operations.Embedding(rows, sizes.token, **factory)})
        self.linears, self.linear_action = mlp(), mlp()
        self.interaction_embedding, self.position_embedding = table(sizes.slots), table(3)
        self.null_positive_feature = nn.Parameter(torch.empty(sizes.feature, **factory))
        self.null_action_feature = nn.Parameter(torch.empty(sizes.feature, **factory))
        self.null_position_feature = nn.Parameter(torch.empty(sizes.position, **factory))

    def forward(self, given: Grounding) -> Tensor:
        """Tokens (B, 3N, T): subjects, actions, objects. Free slots yield tokens, too, whatever stands in them."""
        between_boxes, used = between(given.subject_boxes, given.object_boxes), given.used.unsqueeze(-1)
        parts = [(self.linears, given.subject, self.null_positive_feature, given.subject_boxes),
                 (self.linear_action, given.action, self.null_action_feature, between_boxes),
                 (self.linears, given.object, self.null_positive_feature, given.object_boxes)]
        tokens = torch.stack([self.part(used, *part) for part in parts], dim=1)  # (B, 3, N, T)
        slots = torch.arange(tokens.shape[2], device=tokens.device)
        roles = torch.tensor(ROLES, device=tokens.device)
        tokens = tokens + self.interaction_embedding["emb"](slots, out_dtype=tokens.dtype)
        return (tokens + self.position_embedding["emb"](roles, out_dtype=tokens.dtype)[:, None]).flatten(1, 2)

    def part(self, used: Tensor, mlp: nn.Sequential, feature: Tensor, null: Tensor, boxes: Tensor) -> Tensor:
        position, null_position = fourier(boxes, self.frequencies), self.null_position_feature
        feature = used * feature + (1 - used) * comfy.ops.cast_to_input(null, feature)
        position = used * position + (1 - used) * comfy.ops.cast_to_input(null_position, position)
        return mlp(torch.cat((feature, position), dim=-1))


class Fuser(nn.Module):
    """The gated self-attention between a UNet block's self- and cross-attention: InFormer (spec section 7)."""

    def __init__(self, width: int, token_width: int, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.linear = operations.Linear(token_width, width, **factory)
        self.attn = CrossAttention(width, heads=HEADS, dim_head=width // HEADS, operations=operations, **factory)
        self.ff = FeedForward(width, glu=True, operations=operations, **factory)
        self.norm1 = operations.LayerNorm(width, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.alpha_attn = nn.Parameter(torch.empty((), **factory))
        self.alpha_dense = nn.Parameter(torch.empty((), **factory))

    def keys(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens (B, M, T), each (B, M, C). They depend neither on the picture nor on the step."""
        z = self.norm1(self.linear(tokens))
        return self.attn.to_k(z), self.attn.to_v(z)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, scale: float, transformer_options: dict = {}) -> Tensor:
        """Visual tokens x (B, V, C) that have read each other and the keys and values (B, M, C) of `keys`.

        Only they ask: the reference drops what the other tokens read. `scale` multiplies both residuals.
        """
        z = self.norm1(x)
        k, v = torch.cat((self.attn.to_k(z), k), dim=1), torch.cat((self.attn.to_v(z), v), dim=1)  # (B, V + M, C)
        read = optimized_attention(self.attn.to_q(z), k, v, HEADS, transformer_options=transformer_options)
        x = torch.addcmul(x, self.gate(self.alpha_attn, x), self.attn.to_out(read), value=scale)
        return torch.addcmul(x, self.gate(self.alpha_dense, x), self.ff(self.norm2(x)), value=scale)

    def gate(self, alpha: Tensor, x: Tensor) -> Tensor:
        return comfy.ops.cast_to_input(alpha, x).tanh()


class InteractDiffusion(nn.Module):
    """The position net and one fuser for each transformer of a UNet, in the order in which these run."""

    def __init__(self, sizes: Sizes, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.sizes = sizes
        self.position_net = PositionNet(sizes, **factory)
        self.fusers = nn.ModuleList(Fuser(width, sizes.token, **factory) for width in sizes.fusers)
