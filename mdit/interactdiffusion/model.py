"""InteractDiffusion's networks: docs/design/interactdiffusion.md, sections 2, 3, 5, 6 and 7.

Shapes: B rows of a batch, S slots for interactions, F width of a phrase feature, E width of an interaction token,
N image tokens, C width of a UNet block.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

import comfy.ops
from comfy.ldm.modules.attention import CrossAttention, FeedForward, optimized_attention

HEADS = 8  # at every width of SD 1.x; no tensor's shape shows it
COORDINATES = 4
ROLES = (0, 2, 1)  # the role table's row of subject, action and object, in the order of the tokens


class Grounding(NamedTuple):
    """The position net's input.

    subject_boxes: (B, S, 4), fractions of the image.
    object_boxes: (B, S, 4).
    used: (B, S), 1 for a used slot, 0 for a free one.
    subject: phrase features, (B, S, F).
    action: (B, S, F).
    object: (B, S, F).
    """
    subject_boxes: Tensor
    object_boxes: Tensor
    used: Tensor
    subject: Tensor
    action: Tensor
    object: Tensor


def compute_action_boxes(subject_boxes: Tensor, object_boxes: Tensor) -> Tensor:
    """The action's boxes (..., 4): on each axis the second and third of the four coordinates in ascending order."""
    corners = torch.stack((subject_boxes, object_boxes), dim=-1)  # (..., 4, 2)
    axes = corners.unflatten(-2, (2, 2)).transpose(-3, -2).flatten(-2).sort(dim=-1).values  # (..., 2, 4)
    return axes[..., 1:3].transpose(-2, -1).flatten(-2)


def embed_boxes(boxes: Tensor, frequencies: int) -> Tensor:
    """Fourier features of boxes: (..., 4) -> (..., 8 * frequencies), in float32.

    The order is frequency, then sine before cosine, then coordinate. The angle has no factor pi.
    """
    bands = 100 ** (torch.arange(frequencies, device=boxes.device) / frequencies)
    angles = bands[:, None] * boxes.float().unsqueeze(-2)  # (..., frequencies, 4)
    return torch.stack((angles.sin(), angles.cos()), dim=-2).flatten(-3)


class InteractDiffusionSizes(NamedTuple):
    """Sizes of the networks.

    feature: width F of a phrase feature.
    position: width of a box embedding.
    hidden: width of the position net's hidden layers.
    token: width E of an interaction token.
    slots: number of interactions that the weights have room for.
    fusers: width C of each fuser, in the order in which the UNet's transformers run.
    """
    feature: int
    position: int
    hidden: int
    token: int
    slots: int
    fusers: tuple[int, ...]


class PositionNet(nn.Module):
    """Interactions to tokens: InToken and InBedding of the paper."""

    def __init__(self, sizes: InteractDiffusionSizes, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.frequencies = sizes.position // (2 * COORDINATES)

        def make_mlp() -> nn.Sequential:
            return nn.Sequential(operations.Linear(sizes.feature + sizes.position, sizes.hidden, **factory), nn.SiLU(),
                                 operations.Linear(sizes.hidden, sizes.hidden, **factory), nn.SiLU(),
                                 operations.Linear(sizes.hidden, sizes.token, **factory))

        def make_table(rows: int) -> nn.ModuleDict:
            return nn.ModuleDict({"emb": operations.Embedding(rows, sizes.token, **factory)})
        self.linears = make_mlp()  # for subjects and objects
        self.linear_action = make_mlp()
        self.interaction_embedding = make_table(sizes.slots)
        self.position_embedding = make_table(len(ROLES))
        self.null_positive_feature = nn.Parameter(torch.empty(sizes.feature, **factory))
        self.null_action_feature = nn.Parameter(torch.empty(sizes.feature, **factory))
        self.null_position_feature = nn.Parameter(torch.empty(sizes.position, **factory))

    def forward(self, grounding: Grounding) -> Tensor:
        """Tokens (B, 3S, E): subjects, actions, objects. Free slots give null tokens, whatever they hold."""
        used = grounding.used.unsqueeze(-1)  # (B, S, 1)
        action_boxes = compute_action_boxes(grounding.subject_boxes, grounding.object_boxes)
        subject = self.make_subject_input(grounding.subject, grounding.subject_boxes, used)
        object_ = self.make_subject_input(grounding.object, grounding.object_boxes, used)
        action = self.make_masked_input(grounding.action, self.null_action_feature, action_boxes, used)
        tokens = torch.stack([self.linears(subject), self.linear_action(action), self.linears(object_)], dim=1)
        slots = torch.arange(tokens.shape[2], device=tokens.device)
        roles = torch.tensor(ROLES, device=tokens.device)
        tokens = tokens + self.interaction_embedding["emb"](slots, out_dtype=tokens.dtype)  # (B, 3, S, E)
        return (tokens + self.position_embedding["emb"](roles, out_dtype=tokens.dtype)[:, None]).flatten(1, 2)

    def make_subject_input(self, features: Tensor, boxes: Tensor, used: Tensor) -> Tensor:
        """Input of the MLP that subjects and objects share."""
        return self.make_masked_input(features, self.null_positive_feature, boxes, used)

    def make_masked_input(self, features: Tensor, null_feature: Tensor, boxes: Tensor, used: Tensor) -> Tensor:
        """Features (B, S, F) and embedded boxes, the null vectors where a slot is free: (B, S, F + position)."""
        positions = embed_boxes(boxes, self.frequencies)
        features = used * features + (1 - used) * comfy.ops.cast_to_input(null_feature, features)
        null_position = comfy.ops.cast_to_input(self.null_position_feature, positions)
        positions = used * positions + (1 - used) * null_position
        return torch.cat((features, positions), dim=-1)


class Fuser(nn.Module):
    """The gated self-attention between a UNet block's self- and cross-attention: InFormer of the paper."""

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

    def project_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, 3S, C) of interaction tokens (B, 3S, E). They depend on neither the image nor the step.
        """
        z = self.norm1(self.linear(tokens))
        return self.attn.to_k(z), self.attn.to_v(z)

    def forward(self, x: Tensor, token_k: Tensor, token_v: Tensor, scale: float,
                transformer_options: dict = {}) -> Tensor:
        """Image tokens x (B, N, C) attend to themselves and to the interactions' keys and values (B, 3S, C).

        Interaction tokens make no queries: the reference drops their rows. `scale` multiplies both residuals.
        """
        z = self.norm1(x)
        q = self.attn.to_q(z)
        k = torch.cat((self.attn.to_k(z), token_k), dim=1)  # (B, N + 3S, C)
        v = torch.cat((self.attn.to_v(z), token_v), dim=1)
        attended = optimized_attention(q, k, v, HEADS, transformer_options=transformer_options)
        x = torch.addcmul(x, self.compute_gate(self.alpha_attn, x), self.attn.to_out(attended), value=scale)
        return torch.addcmul(x, self.compute_gate(self.alpha_dense, x), self.ff(self.norm2(x)), value=scale)

    def compute_gate(self, alpha: Tensor, x: Tensor) -> Tensor:
        return comfy.ops.cast_to_input(alpha, x).tanh()


class InteractDiffusion(nn.Module):
    """The position net, and one fuser for each transformer of a UNet in the order in which they run."""

    def __init__(self, sizes: InteractDiffusionSizes, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.sizes = sizes
        self.position_net = PositionNet(sizes, **factory)
        self.fusers = nn.ModuleList(Fuser(width, sizes.token, **factory) for width in sizes.fusers)
