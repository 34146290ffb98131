"""DynaST's generator written straight from its description, for comparison (spec section 6): every tensor whole, what
is gathered too, and the best candidates from the softmax."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mditface.mdit.dynast.block import Block
from mditface.mdit.dynast.layers import SPADE, Encoder, SPADEResBlock
from mditface.mdit.dynast.model import DynaST


def positional_norm(x: Tensor) -> Tensor:
    return (x - x.mean(dim=1, keepdim=True)) / torch.sqrt(x.var(dim=1, keepdim=True) + 1e-8)


def encode(encoder: Encoder, x: Tensor) -> list[Tensor]:
    features = []
    for conv, _, res in encoder.children():
        x = res(F.instance_norm(conv(x)))
        features.append(x)
    return features


def spade(layer: SPADE, x: Tensor, label: Tensor) -> Tensor:
    h = layer.mlp_shared(F.interpolate(label, x.shape[-2:], mode="nearest"))
    return (1 + layer.mlp_gamma(h)) * positional_norm(x) + layer.mlp_beta(h)


def embed(layer: SPADEResBlock, x: Tensor, label: Tensor) -> Tensor:
    y = layer.conv_0(layer.relu(spade(layer.norm_0, x, label)))
    y = layer.conv_1(layer.relu(spade(layer.norm_1, y, label)))
    return layer.relu(x + y)


def inter_scale(chosen: Tensor, side: int) -> Tensor:
    """(B, N / 4, K) of the coarser grid -> (B, N / 4, 4K)."""
    y, x = 2 * (chosen // (side // 2)), 2 * (chosen % (side // 2))
    return torch.stack([y * side + x, y * side + x + 1, (y + 1) * side + x, (y + 1) * side + x + 1], -1).flatten(2)


def intra_scale(chosen: Tensor, side: int) -> Tensor:
    """(B, N, K) -> (B, N, 5K)."""
    y, x = (part.unflatten(1, (side, side)).movedim(-1, 1).float() for part in (chosen // side, chosen % side))
    y, x = (F.pad(part, (1, 1, 1, 1), mode="replicate").long() for part in (y, x))  # (B, K, side + 2, side + 2)
    found = []
    for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        part = ..., slice(1 + dy, 1 + dy + side), slice(1 + dx, 1 + dx + side)
        near = (y[part] - dy).clamp(0, side - 1) * side + (x[part] - dx).clamp(0, side - 1)
        found.append(near.flatten(2).mT)
    return torch.cat(found, dim=-1)


def windows(x: Tensor, side: int) -> Tensor:
    """(B, N, C) -> (B, N / 4, 4, C)."""
    x = x.unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3)
    return x.reshape(len(x), -1, 4, x.shape[-1])


def from_windows(x: Tensor, side: int) -> Tensor:
    """(B, N / 4, 4, C) -> (B, N, C)."""
    return x.unflatten(1, (side // 2, side // 2)).unflatten(3, (2, 2)).transpose(2, 3).reshape(len(x), side ** 2, -1)


def taken(x: Tensor, candidates: Tensor) -> Tensor:
    """(B, N, C) at (B, n, K) -> (B, n, K, C)."""
    return x[torch.arange(len(x))[:, None, None], candidates]


def attend(block: Block, x: Tensor, k: Tensor, positions: Tensor, label: Tensor, candidates: Tensor | None,
           top_k: int) -> tuple[Tensor, Tensor]:
    """A block: its features, and what it hands on, (B, N, top_k)."""
    def rows(t: Tensor) -> Tensor:
        return t.flatten(2).mT
    side = x.shape[-1]
    query, key = (torch.cat([t / (t.norm(dim=1, keepdim=True) + 1e-10), positions.expand(len(t), -1, -1, -1)], dim=1)
                  for t in (x, k))
    q, q_prune = rows(block.f(query)), rows(block.f_prune(query))
    k, k_prune, v = rows(block.g(key)), rows(block.g_prune(key)), rows(block.h(k))
    in_windows = candidates is not None and candidates.shape[1] < q.shape[1]
    if in_windows:
        q, q_prune = windows(q, side), windows(q_prune, side)
    elif candidates is not None:
        q, q_prune = q.unsqueeze(2), q_prune.unsqueeze(2)
    if candidates is not None:
        k, k_prune, v = (taken(t, candidates) for t in (k, k_prune, v))
    attention = torch.softmax(q @ k.mT / block.tau, dim=-1)
    mask = (q_prune @ k_prune.mT > 0).to(attention)
    output, conf = (mask * attention) @ v, (mask * attention).sum(dim=-1, keepdim=True)
    chosen = attention.topk(top_k, dim=-1).indices
    if candidates is not None:
        chosen = candidates.unsqueeze(2).expand_as(attention).gather(-1, chosen)
    found = [from_windows(t, side) if in_windows else t.flatten(1, -2) for t in (output, conf, chosen)]
    output, conf = (t.mT.unflatten(2, x.shape[-2:]) for t in found[:2])
    y = positional_norm(output + (1 - conf) * spade(block.spade, x, label) + x)
    return block.res_block(y), found[2]


def direct(network: DynaST, label: Tensor, exemplar: Tensor, exemplar_label: Tensor) -> Tensor:
    """The picture (B, 3, S, S) of a square label at the size of the network's positions."""
    reference = torch.cat([exemplar, exemplar_label], dim=1)
    of_label, of_exemplar = encode(network.encoder_q, label), encode(network.encoder_kv, reference)
    part = network.get_submodule
    q, k, positions = {}, {}, {4: network.pos_embed}
    for level in (4, 3, 2, 1):
        a, b = of_label[level - 1], of_exemplar[level - 1]
        if level < 4:
            step = f"{level + 1}{level}"
            a, b = part(f"decoder_q{step}")(q[level + 1]) + a, part(f"decoder_kv{step}")(k[level + 1]) + b
            positions[level] = part(f"pos_{step}")(positions[level + 1])
        q[level], k[level] = embed(part(f"embed_q{level}"), a, label), embed(part(f"embed_kv{level}"), b, reference)
    chosen = decoded = None
    for level in (4, 3, 2, 1):
        x, side = q[level], q[level].shape[-1]
        for i, block in enumerate(part(f"transformer_{level}")):
            candidates = None if level == 4 else (inter_scale if i == 0 else intra_scale)(chosen, side)
            x, chosen = attend(block, x, k[level], positions[level], label, candidates, network.config.top_k)
        if level < 4:
            x = embed(part("embed_q1" if level == 1 else f"embed_{level}"),
                      part(f"decoder_{level + 1}{level}")(decoded) + x, label)
        decoded = x
    return torch.tanh(network.decoder_10(decoded))
