"""InteractDiffusion's fuser as the authors' programs compute it: docs/design/interactdiffusion.md, section 7."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mditface.mdit.interactdiffusion.model import HEADS, Fuser


def attend_all_pairs(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(B, N, C) each. The matrix of all pairs is computed, as in the authors' programs."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B H, N, D)
    weights = (torch.einsum("bid,bjd->bij", q, k) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return torch.einsum("bij,bjd->bid", weights, v).unflatten(0, (-1, heads)).transpose(1, 2).flatten(-2)


def run_plain_fuser(fuser: Fuser, x: Tensor, tokens: Tensor, scale: float, attention: Callable = attend_all_pairs
                ) -> Tensor:
    """All tokens make queries and are projected in every call; the rows of interaction tokens are then dropped."""
    z = fuser.norm1(torch.cat((x, fuser.linear(tokens)), dim=1))
    attended = fuser.attn.to_out(attention(fuser.attn.to_q(z), fuser.attn.to_k(z), fuser.attn.to_v(z), HEADS))
    x = x + scale * torch.tanh(fuser.alpha_attn) * attended[:, :x.shape[1]]
    return x + scale * torch.tanh(fuser.alpha_dense) * fuser.ff(fuser.norm2(x))
