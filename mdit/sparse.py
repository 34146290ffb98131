"""Dynamic sparse attention: each query looks at few keys, and a learned test drops some of those (DynaST spec section
6.3). Queries take turns in chunks, which changes no result: every sum is over one query's candidates."""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

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
    queries = torch.cat(query, dim=-1).float()  # (B, N, d + r)
    keys = torch.cat([*key, value, *([] if picture is None else [picture])], dim=-1).float()  # (B, M, d + r + c + c')
    widths = [part.shape[-1] for part in (*key, value)]
    with torch.autocast(queries.device.type, enabled=False):
        found = [look(*chunk, widths, asked) for chunk in chunks(queries, keys, candidates)]
    shape = queries.shape[:2]
    return Attended(*(None if part[0] is None else torch.cat([x.flatten(0, 1) for x in part]).unflatten(0, shape)
                      for part in zip(*found)))


def chunks(queries: Tensor, keys: Tensor, candidates: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yields queries (b, g, D), the keys (b, C, D') that they look at, and those keys' numbers (b, C)."""
    if candidates is None:
        for own, all_keys in zip(queries, keys):
            for part in own.split(max(1, CHUNK // len(all_keys))):
                comfy.model_management.throw_exception_if_processing_interrupted()
                yield part[None], all_keys[None], None
        return
    batch, m, width = keys.shape
    numbers = candidates.flatten(0, 1)  # (B * n, C)
    places = (candidates + m * torch.arange(batch, device=keys.device)[:, None, None]).flatten(0, 1)
    queries = queries.reshape(len(numbers), -1, queries.shape[-1])
    rows = max(1, CHUNK // (width * numbers.shape[1]))
    for part, chunk, at in zip(queries.split(rows), numbers.split(rows), places.split(rows)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield part, keys.flatten(0, 1).index_select(0, at.flatten()).unflatten(0, at.shape), chunk


def look(queries: Tensor, keys: Tensor, candidates: Tensor | None, widths: list[int], asked: Asked) -> Attended:
    """One chunk: queries (b, g, d + r) that look at keys (b, C, d + r + c + c')."""
    d, r, c = widths
    score, prune, value, picture = keys.split([d, r, c, keys.shape[-1] - d - r - c], dim=-1)
    scores = queries[..., :d] @ score.mT / asked.tau  # (b, g, C)
    kept = passed(queries[..., d:] @ prune.mT)  # (b, g, C)
    weights = kept * scores.softmax(dim=-1)  # not renormalised: the rest is for what lies under the output
    warped = None
    if picture.shape[-1]:
        shown = (kept > 0) == asked.warp_kept
        warped = torch.where(shown, scores, DROPPED).softmax(dim=-1) @ picture
    chosen = None if asked.top_k is None else best(scores, candidates, asked.top_k)
    return Attended(weights @ value, weights.sum(dim=-1, keepdim=True), warped, chosen)


def passed(z: Tensor) -> Tensor:
    """1 where z > 0, else 0; its gradient is the sigmoid's (straight through)."""
    kept = (z > 0).to(z)
    if not z.requires_grad:
        return kept
    soft = z.sigmoid()
    return kept + (soft - soft.detach())
