"""DynaST's generator written straight from its formulas, for comparison (docs/design/dynast.md, section 6).

Every tensor is computed whole, gathered keys included, and the best candidates are taken from the softmax.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mditface.mdit.dynast.block import Block
from mditface.mdit.dynast.layers import SPADE, Encoder, SPADEResBlock
from mditface.mdit.dynast.model import DynaST


def normalize_positions(x: Tensor) -> Tensor:
    return (x - x.mean(dim=1, keepdim=True)) / torch.sqrt(x.var(dim=1, keepdim=True) + 1e-8)


def encode(encoder: Encoder, x: Tensor) -> list[Tensor]:
    features = []
    for conv, _, res in encoder.children():
        x = res(F.instance_norm(conv(x)))
        features.append(x)
    return features


def apply_spade(layer: SPADE, x: Tensor, label: Tensor) -> Tensor:
    h = layer.mlp_shared(F.interpolate(label, x.shape[-2:], mode="nearest"))
    return (1 + layer.mlp_gamma(h)) * normalize_positions(x) + layer.mlp_beta(h)


def embed(layer: SPADEResBlock, x: Tensor, label: Tensor) -> Tensor:
    y = layer.conv_0(layer.relu(apply_spade(layer.norm_0, x, label)))
    y = layer.conv_1(layer.relu(apply_spade(layer.norm_1, y, label)))
    return layer.relu(x + y)


def expand_candidates(chosen: Tensor, side: int) -> Tensor:
    """(B, N / 4, K) of the coarser grid -> (B, N / 4, 4K)."""
    y = 2 * (chosen // (side // 2))
    x = 2 * (chosen % (side // 2))
    return torch.stack([y * side + x, y * side + x + 1, (y + 1) * side + x, (y + 1) * side + x + 1], -1).flatten(2)


def propagate_candidates(chosen: Tensor, side: int) -> Tensor:
    """(B, N, K) -> (B, N, 5K)."""
    y, x = (part.unflatten(1, (side, side)).movedim(-1, 1).float() for part in (chosen // side, chosen % side))
    y, x = (F.pad(part, (1, 1, 1, 1), mode="replicate").long() for part in (y, x))  # (B, K, side + 2, side + 2)
    found = []
    for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        part = ..., slice(1 + dy, 1 + dy + side), slice(1 + dx, 1 + dx + side)
        near = (y[part] - dy).clamp(0, side - 1) * side + (x[part] - dx).clamp(0, side - 1)
        found.append(near.flatten(2).mT)
    return torch.cat(found, dim=-1)


def to_windows(x: Tensor, side: int) -> Tensor:
    """(B, N, C) -> (B, N / 4, 4, C)."""
    x = x.unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3)
    return x.reshape(len(x), -1, 4, x.shape[-1])


def from_windows(x: Tensor, side: int) -> Tensor:
    """(B, N / 4, 4, C) -> (B, N, C)."""
    return x.unflatten(1, (side // 2, side // 2)).unflatten(3, (2, 2)).transpose(2, 3).reshape(len(x), side ** 2, -1)


def take(x: Tensor, candidates: Tensor) -> Tensor:
    """(B, N, C) at (B, n, K) -> (B, n, K, C)."""
    return x[torch.arange(len(x))[:, None, None], candidates]


def attend(block: Block, x: Tensor, k: Tensor, positions: Tensor, label: Tensor, candidates: Tensor | None,
           top_k: int) -> tuple[Tensor, Tensor]:
    """A block: its features, and the candidates that it hands on, (B, N, top_k)."""
    def to_rows(t: Tensor) -> Tensor:
        return t.flatten(2).mT
    side = x.shape[-1]
    query, key = (torch.cat([t / (t.norm(dim=1, keepdim=True) + 1e-10), positions.expand(len(t), -1, -1, -1)], dim=1)
                  for t in (x, k))
    q = to_rows(block.f(query))
    q_prune = to_rows(block.f_prune(query))
    v = to_rows(block.h(k))
    k = to_rows(block.g(key))
    k_prune = to_rows(block.g_prune(key))
    in_windows = candidates is not None and candidates.shape[1] < q.shape[1]
    if in_windows:
        q = to_windows(q, side)
        q_prune = to_windows(q_prune, side)
    elif candidates is not None:
        q = q.unsqueeze(2)
        q_prune = q_prune.unsqueeze(2)
    if candidates is not None:
        k, k_prune, v = (take(t, candidates) for t in (k, k_prune, v))
    attention = torch.softmax(q @ k.mT / block.tau, dim=-1)
    mask = (q_prune @ k_prune.mT > 0).to(attention)
    output = (mask * attention) @ v
    conf = (mask * attention).sum(dim=-1, keepdim=True)
    chosen = attention.topk(top_k, dim=-1).indices
    if candidates is not None:
        chosen = candidates.unsqueeze(2).expand_as(attention).gather(-1, chosen)
    found = [from_windows(t, side) if in_windows else t.flatten(1, -2) for t in (output, conf, chosen)]
    output, conf = (t.mT.unflatten(2, x.shape[-2:]) for t in found[:2])
    y = normalize_positions(output + (1 - conf) * apply_spade(block.spade, x, label) + x)
    return block.res_block(y), found[2]


def embed_levels(network: DynaST, side: str, features: list[Tensor], by: Tensor) -> dict[int, Tensor]:
    """The features of the queries (side "q") or keys ("kv") by level, each from the coarser level's."""
    embedded = {}
    for level in (4, 3, 2, 1):
        x = features[level - 1]
        if level < 4:
            x = network.get_submodule(f"decoder_{side}{level + 1}{level}")(embedded[level + 1]) + x
        embedded[level] = embed(network.get_submodule(f"embed_{side}{level}"), x, by)
    return embedded


def run_direct(network: DynaST, label: Tensor, exemplar: Tensor, exemplar_label: Tensor) -> Tensor:
    """The image (B, 3, S, S) of a square label, in the size that the position map was trained for."""
    reference = torch.cat([exemplar, exemplar_label], dim=1)
    label_features = encode(network.encoder_q, label)
    exemplar_features = encode(network.encoder_kv, reference)
    part = network.get_submodule
    q = embed_levels(network, "q", label_features, label)
    k = embed_levels(network, "kv", exemplar_features, reference)
    positions = {4: network.pos_embed}
    for level in (3, 2, 1):
        positions[level] = part(f"pos_{level + 1}{level}")(positions[level + 1])
    chosen = decoded = None
    for level in (4, 3, 2, 1):
        x = q[level]
        for i, block in enumerate(part(f"transformer_{level}")):
            candidates = None
            if level < 4:
                candidates = (expand_candidates if i == 0 else propagate_candidates)(chosen, x.shape[-1])
            x, chosen = attend(block, x, k[level], positions[level], label, candidates, network.config.top_k)
        if level < 4:
            x = embed(part("embed_q1" if level == 1 else f"embed_{level}"),
                      part(f"decoder_{level + 1}{level}")(decoded) + x, label)
        decoded = x
    return torch.tanh(network.decoder_10(decoded))
