"""Dynamic sparse attention: each query reads few keys, and a learned test prunes some of them.

See docs/design/dynast.md, section 6.3. Queries are computed in chunks to save memory. Chunks do not change the result,
because every sum is over the candidates of one query.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, autocast

import comfy.model_management

from .candidates import select_best

CHUNK = 1 << 20  # numbers that a chunk gathers from the keys, or its scores if it reads all keys: 4 MB fit in caches
CARD_CHUNK = 1 << 24  # 64 MB keep a card busy; smaller chunks cost launches
DROPPED = -10000.0  # finite, so that the softmax is uniform if all candidates are dropped


class Projections(NamedTuple):
    """Projections of the queries or of the keys.

    score: (B, N, d), Q or K, for the attention scores.
    prune: (B, N, r), Q' or K', for the pruning test.
    """
    score: Tensor
    prune: Tensor


class SparseOptions(NamedTuple):
    """How queries read.

    tau: temperature of the softmax.
    top_k: number of candidates to hand on; None for none.
    warp_kept: the image is warped by the candidates that pass the pruning test. Off, as in the published code, it is
        warped by those that fail (docs/design/dynast.md, section 6.5).
    """
    tau: float
    top_k: int | None = None
    warp_kept: bool = False


class SparseOutput(NamedTuple):
    """What N queries read.

    output: (B, N, c), values of the kept candidates, weighted by attention.
    conf: (B, N, 1) in 0..1, the attention on the kept candidates.
    warped: (B, N, c'), the warped image; None if there is no image.
    chosen: (B, N, top_k) int64, the best candidates, the best first; None if top_k is None.
    """
    output: Tensor
    conf: Tensor
    warped: Tensor | None
    chosen: Tensor | None


class Keys(NamedTuple):
    """What queries read.

    score: (B, M, d). prune: (B, M, r). value: (B, M, c). image: (B, M, c'), to be warped, or None.
    """
    score: Tensor
    prune: Tensor
    value: Tensor
    image: Tensor | None

    def apply(self, function: Callable[[Tensor], Tensor]) -> Keys:
        image = None if self.image is None else function(self.image)
        return Keys(function(self.score), function(self.prune), function(self.value), image)

    def gather(self, index: Tensor) -> Keys:
        """Keys (M, ...) at index (n, C) -> (n, C, ...)."""
        return self.apply(lambda x: x.index_select(0, index.flatten()).unflatten(0, index.shape))

    def count_numbers_per_key(self) -> int:
        return sum(x.shape[-1] for x in self if x is not None)


class Chunk(NamedTuple):
    """Queries (b, g, ...), the keys (b, C, ...) that they read, and the numbers of these (b, C); None for all keys."""
    query: Projections
    keys: Keys
    candidates: Tensor | None


def attend_sparsely(query: Projections, key: Projections, value: Tensor, candidates: Tensor | None,
                    options: SparseOptions, image: Tensor | None = None) -> SparseOutput:
    """Attention of N queries to candidates among M keys.

    value: (B, M, c). image: (B, M, c'), to be warped. candidates: (B, n, C) int64; each of the n lists serves N / n
    consecutive queries. None for all keys. Everything is computed in float32, because the choice of candidates depends
    on the last digits. Raises ValueError if there are fewer than top_k candidates.
    """
    keys = Keys(key.score, key.prune, value, image).apply(Tensor.float)
    query = Projections(query.score.float(), query.prune.float())
    with autocast(value.device.type, enabled=False):  # which only a trainer turns on
        found = [attend_chunk(chunk, options) for chunk in split_chunks(query, keys, candidates)]
    shape = query.score.shape[:2]
    return SparseOutput(join_chunks([part.output for part in found], shape),
                        join_chunks([part.conf for part in found], shape),
                        join_chunks([part.warped for part in found], shape),
                        join_chunks([part.chosen for part in found], shape))


def join_chunks(parts: Sequence[Tensor | None], shape: Sequence[int]) -> Tensor | None:
    """Parts (b, g, ...) -> (B, N, ...), for shape (B, N)."""
    if parts[0] is None:
        return None
    return torch.cat([part.flatten(0, 1) for part in parts]).unflatten(0, shape)


def split_chunks(query: Projections, keys: Keys, candidates: Tensor | None) -> Iterator[Chunk]:
    chunks = split_queries(query, keys) if candidates is None else gather_keys(query, keys, candidates)
    for chunk in chunks:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield chunk


def get_chunk(device: torch.device) -> int:
    """Numbers of a chunk on a device."""
    return CHUNK if device.type == "cpu" else CARD_CHUNK


def split_queries(query: Projections, keys: Keys) -> Iterator[Chunk]:
    """Chunks of queries that read all keys of their item."""
    batch, M = keys.score.shape[:2]
    count = max(1, get_chunk(keys.score.device) // M)
    for i in range(batch):
        item = slice(i, i + 1)
        own_keys = Keys(keys.score[item], keys.prune[item], keys.value[item],
                        None if keys.image is None else keys.image[item])
        scores = query.score[item].split(count, dim=1)
        prunes = query.prune[item].split(count, dim=1)
        for score, prune in zip(scores, prunes):  # (1, g, d), (1, g, r)
            yield Chunk(Projections(score, prune), own_keys, None)


def gather_keys(query: Projections, keys: Keys, candidates: Tensor) -> Iterator[Chunk]:
    """Chunks of lists of candidates (B, n, C), with the queries that share each list and the keys that it names."""
    batch, M = keys.score.shape[:2]
    first_key = M * torch.arange(batch, device=candidates.device)[:, None, None]
    numbers = candidates.flatten(0, 1)  # (B * n, C)
    index = (candidates + first_key).flatten(0, 1)  # (B * n, C), among the keys of all items
    all_keys = keys.apply(lambda x: x.flatten(0, 1))  # (B * M, ...)
    score = query.score.reshape(len(numbers), -1, query.score.shape[-1])  # (B * n, g, d)
    prune = query.prune.reshape(len(numbers), -1, query.prune.shape[-1])  # (B * n, g, r)
    count = max(1, get_chunk(candidates.device) // (numbers.shape[1] * keys.count_numbers_per_key()))
    for start in range(0, len(numbers), count):
        lists = slice(start, start + count)
        yield Chunk(Projections(score[lists], prune[lists]), all_keys.gather(index[lists]), numbers[lists])


def attend_chunk(chunk: Chunk, options: SparseOptions) -> SparseOutput:
    query, keys, candidates = chunk
    scores = query.score @ keys.score.mT / options.tau  # (b, g, C)
    kept = threshold(query.prune @ keys.prune.mT)  # (b, g, C)
    weights = kept * scores.softmax(dim=-1)  # not renormalized: the caller fills in what was pruned
    warped = None
    if keys.image is not None:
        shown = (kept > 0) == options.warp_kept
        warped = torch.where(shown, scores, DROPPED).softmax(dim=-1) @ keys.image  # (b, g, c')
    chosen = None if options.top_k is None else select_best(scores, candidates, options.top_k)  # (b, g, top_k)
    return SparseOutput(weights @ keys.value, weights.sum(dim=-1, keepdim=True), warped, chosen)


def threshold(z: Tensor) -> Tensor:
    """1 where z > 0, else 0. The gradient is that of the sigmoid (straight-through estimator)."""
    kept = (z > 0).to(z)
    if not z.requires_grad:
        return kept
    soft = z.sigmoid()
    return kept + (soft - soft.detach())
