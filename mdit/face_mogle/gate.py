"""The experts and the gate (docs/design/face-mogle.md, section 3)."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..labelmap import CLASSES

FEATURES = 64  # of a token: 16 channels of 2 x 2 latent cells
HIDDEN = 32
PICTURES = 1 + len(CLASSES)  # the whole label map, and each class
PERIOD = 10000


class Expert(nn.Module):
    """E(z) = W2 relu(W1 z + b1) + b2, of the tokens of one picture."""

    def __init__(self, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.net = nn.Sequential(operations.Linear(FEATURES, HIDDEN, **factory), nn.ReLU(),
                                 operations.Linear(HIDDEN, FEATURES, **factory))

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


class TimeEmbedding(nn.Module):
    """e(t) = L2 silu(L1 phi(t))."""

    def __init__(self, dtype=None, device=None, operations=None):
        super().__init__()
        self.linear_1 = operations.Linear(FEATURES, FEATURES, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(FEATURES, FEATURES, dtype=dtype, device=device)

    def forward(self, t: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(make_time_features(t))))  # (B, FEATURES)


def make_time_features(t: Tensor) -> Tensor:
    """phi(t) = [cos(t w), sin(t w)] with w_j = PERIOD^(-j / 32): (B,) -> (B, FEATURES), float32.

    The exponents are rounded like the authors'; the last bit of a float32 exp would differ between devices.
    """
    half = FEATURES // 2
    exponents = -math.log(PERIOD) * torch.arange(half, dtype=torch.float32) / half
    frequencies = exponents.double().exp().to(t.device, torch.float32)  # (FEATURES / 2,)
    phases = t.float()[:, None] * frequencies
    return torch.cat((phases.cos(), phases.sin()), dim=-1)


class Gating(nn.Module):
    """The weights of the experts in each token."""

    def __init__(self, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.timestep_embedding = TimeEmbedding(**factory, operations=operations)
        self.noise_proj = operations.Linear(FEATURES, FEATURES, **factory)
        self.gate = nn.Sequential(operations.Linear(FEATURES, FEATURES, **factory), nn.ReLU(),
                                  operations.Linear(FEATURES, PICTURES, **factory))

    def forward(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """(B, N, PICTURES), which sum to 1 in each token. Arguments as in `Gate.weigh`."""
        seen = z + self.noise_proj(x) + self.timestep_embedding(t)[:, None]  # (B, N, FEATURES)
        return self.gate(seen).softmax(dim=-1)


class Gate(nn.Module):
    """The network of a gate file: an expert for the whole label map, one for each class, and what weighs them.

    It computes in float32, whatever the type of its weights.
    """

    def __init__(self, dtype=None, device=None, operations=None):
        super().__init__()
        factory = {"dtype": dtype, "device": device, "operations": operations}
        self.global_expert = Expert(**factory)
        self.local_experts = nn.ModuleList(Expert(**factory) for _ in CLASSES)
        self.gating = Gating(**factory)

    def run_experts(self, z: Tensor) -> Tensor:
        """E_i(z_i) of the pictures' tokens z (b, PICTURES, N, FEATURES), in the same shape."""
        experts = (self.global_expert, *self.local_experts)
        return torch.stack([expert(z[:, i]) for i, expert in enumerate(experts)], dim=1)

    def weigh(self, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The weights g (B, N, PICTURES) of the experts.

        z: tokens of the whole label map, (B, N, FEATURES). x: of the noisy latent. t: time of each row, (B,).
        """
        return self.gating(z, x, t)


def mix_experts(weights: Tensor, outputs: Tensor) -> Tensor:
    """c = sum_i g_i E_i: weights (B, N, PICTURES), outputs (B, PICTURES, N, FEATURES) -> (B, N, FEATURES)."""
    return torch.einsum("bni,binf->bnf", weights, outputs)
