"""Dynamic sparse attention: each query looks at few keys, and a learned test drops some of those (DynaST spec section
6.3). Queries take turns in chunks, which changes no result: every sum is over one query's candidates."""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, autocast

import comfy.model_management

from .candidates import best

CHUNK = 1 << 20  # numbers of the keys that a chunk gathers, or of its scores where all keys are candidates: 4 MB
DROPPED = -10000.0  # finite: where all are dropped, the softmax is uniform


class Side(NamedTuple):
    """Projections of the queries or of the keys: `score` (B, N, d) for Q or K, `prune` (B, N, r) for Q' or K'."""
    score: Tensor
    prune: Tensor


class Asked(NamedTuple):
    """tau: the softmax's temperature. top_k: how many candidates to hand on; None for none.

    warp_kept: the picture is carried over by the candidates that pass the test; off, as in the published code, by those
    that fail it (section 6.5).
    """
    tau: float
    top_k: int | None = None
    warp_kept: bool = False


class Attended(NamedTuple):
    """What N queries found.

    output: (B, N, c), the values of the candidates kept, weighed by attention. conf: (B, N, 1) in 0..1, the attention
    that they have. warped: (B, N, c'), the picture carried over, or None. chosen: (B, N, top_k) int64, the best
    candidates, the best first, or None.
    """
    output: Tensor
    conf: Tensor
    warped: Tensor | None
    chosen: Tensor | None


def attend(query: Side, key: Side, value: Tensor, candidates: Tensor | None, asked: Asked,
           picture: Tensor | None = None) -> Attended:
    """Attention of N queries to candidates among M keys.

    value: (B, M, c). picture: (B, M, c'), what to carry over. candidates: (B, n, C) int64, where each of the n lists
    serves N / n queries that follow each other; None for all keys. Everything is computed in float32, for what is
    chosen hangs on the last digits. Raises ValueError where there are fewer than top_k candidates.
    """
    keys = [part.float() for part in (*key, value, *([] if picture is None else [picture]))]
    with autocast(value.device.type, enabled=False):  # which only a trainer turns on
        found = [look(*chunk, asked) for chunk in chunks([part.float() for part in query], keys, candidates)]
    shape = query.score.shape[:2]
    return Attended(*(None if part[0] is None else torch.cat([x.flatten(0, 1) for x in part]).unflatten(0, shape)
                      for part in zip(*found)))


def chunks(queries: list[Tensor], keys: list[Tensor], candidates: Tensor | None) -> Iterator[tuple]:
    """Yields queries (b, g, D), the keys (b, C, D') that they look at, in parts as they came, and those keys' numbers
    (b, C), None for all."""
    for taken in whole(queries, keys) if candidates is None else gathered(queries, keys, candidates):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield taken


def whole(queries: list[Tensor], keys: list[Tensor]) -> Iterator[tuple]:
    batch, m = keys[0].shape[:2]
    for i in range(batch):
        own_keys = [part[i, None] for part in keys]
        for chunk in zip(*(part[i].split(max(1, CHUNK // m)) for part in queries)):
            yield [part[None] for part in chunk], own_keys, None


def gathered(queries: list[Tensor], keys: list[Tensor], candidates: Tensor) -> Iterator[tuple]:
    batch, m = keys[0].shape[:2]
    numbers = candidates.flatten(0, 1)  # (B * n, C)
    places = (candidates + m * torch.arange(batch, device=candidates.device)[:, None, None]).flatten(0, 1)
    rows = max(1, CHUNK // (numbers.shape[1] * sum(part.shape[-1] for part in keys)))
    queries = [part.reshape(len(numbers), -1, part.shape[-1]) for part in queries]  # (B * n, g, D) each
    for own, at, *chunk in zip(*(part.split(rows) for part in (numbers, places, *queries))):
        yield chunk, [part.flatten(0, 1).index_select(0, at.flatten()).unflatten(0, at.shape) for part in keys], own


def look(queries: list[Tensor], keys: list[Tensor], candidates: Tensor | None, asked: Asked) -> Attended:
    """What a chunk's queries find."""
    (q, q_prune), (k, k_prune, value, *picture) = queries, keys
    scores = q @ k.mT / asked.tau  # (b, g, C)
    kept = passed(q_prune @ k_prune.mT)  # (b, g, C)
    weights = kept * scores.softmax(dim=-1)  # not renormalised: the rest is left to what the output is added to
    warped = None
    if picture:
        shown = (kept > 0) == asked.warp_kept
        warped = torch.where(shown, scores, DROPPED).softmax(dim=-1) @ picture[0]
    chosen = None if asked.top_k is None else best(scores, candidates, asked.top_k)
    return Attended(weights @ value, weights.sum(dim=-1, keepdim=True), warped, chosen)


def passed(z: Tensor) -> Tensor:
    """1 where z > 0, else 0; its gradient is the sigmoid's (straight through)."""
    kept = (z > 0).to(z)
    if not z.requires_grad:
        return kept
    soft = z.sigmoid()
    return kept + (soft - soft.detach())
