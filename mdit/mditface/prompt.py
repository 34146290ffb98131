"""The prompt of a model call, for models whose mask stream reads it (docs/design/mditface.md, sections 3.4 and 6.2).

The host batches `y` and `guidance` of its conditions into one tensor for each call. To read them there makes the
device wait at every step. A run therefore marks both in its conditions: each is read once, and the tensor of a call
carries the sources of its rows. A tensor that another node made or changed has no valid mark: it is read again.
"""
from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.conds
import comfy.utils

MARK = "mdit_sources"


Prompt = dict[str, Tensor]
"""What of the prompt a mask stream reads, under the names of the host's model inputs, such as `y` (b, P) and
`guidance` (b,); b = 1 where all rows agree."""


class PromptPart(NamedTuple):
    """One input, in one row where all rows agree, and the digest of its content."""
    rows: Tensor
    digest: bytes


def read_part(x: Tensor) -> PromptPart:
    """The content of one input (rows, ...) of a model call. Reading it waits for the device."""
    rows = x[:1] if (x == x[:1]).all() else x
    digest = hashlib.blake2b(repr((rows.shape, rows.dtype)).encode())
    digest.update(rows.contiguous().view(torch.uint8).cpu().numpy())
    return PromptPart(rows, digest.digest())


class PromptSource:
    """One part of a condition's prompt, read once for each number of rows. `cond` must not be an inference tensor."""

    def __init__(self, cond: Tensor):
        self.cond = cond
        self.version = cond._version
        self.parts: dict[int, PromptPart] = {}

    def is_of(self, cond: Tensor) -> bool:
        """Whether the source stands for this tensor, and nobody changed it in place."""
        return cond is self.cond and cond._version == self.version

    def read(self, rows: int) -> PromptPart:
        if rows not in self.parts:
            self.parts[rows] = read_part(comfy.utils.repeat_to_batch_size(self.cond, rows))
        return self.parts[rows]


class MarkedCond(comfy.conds.CONDRegular):
    """A part of a condition's prompt on its way through the host's batching, with its source; None without one."""

    def __init__(self, cond: Tensor, source: PromptSource | None = None):
        super().__init__(cond)
        self.source = source

    def process_cond(self, batch_size, **kwargs) -> MarkedCond:
        source = self.source if self.source is not None and self.source.is_of(self.cond) else None
        return MarkedCond(comfy.utils.repeat_to_batch_size(self.cond, batch_size), source)

    def concat(self, others) -> Tensor:
        """The tensor of a call, which knows its version and the source of each chunk of rows."""
        conds = [self, *others]
        with torch.inference_mode(False), torch.no_grad():  # only such tensors count their changes
            rows = torch.cat([cond.cond for cond in conds])
        setattr(rows, MARK, (rows._version, [getattr(cond, "source", None) for cond in conds]))
        return rows


def mark_prompt(cond: dict, names: tuple[str, ...]):
    """Marks these inputs of a condition whose `model_conds` the host has made."""
    marked = {}
    for name in names:
        found = cond["model_conds"].get(name)
        if type(found) is comfy.conds.CONDRegular and not found.cond.requires_grad:
            with torch.inference_mode(False), torch.no_grad():
                rows = found.cond.clone()
            marked[name] = MarkedCond(rows, PromptSource(rows))
    cond["model_conds"] = {**cond["model_conds"], **marked}


def read_prompt(conds: dict, names: tuple[str, ...], chunk: int, rows: slice) -> tuple[Prompt, tuple]:
    """The prompt of a chunk, whose rows these are, in the arguments of a model call; and its digest."""
    parts = {name: find_part(conds[name], chunk, rows) for name in names if conds.get(name) is not None}
    prompt = {name: part.rows for name, part in parts.items()}
    return prompt, tuple((name, part.digest) for name, part in parts.items())


def find_part(x: Tensor, chunk: int, rows: slice) -> PromptPart:
    """One input of a chunk, from its source where the tensor's mark is valid, otherwise from the tensor."""
    version, sources = getattr(x, MARK, (None, []))
    if chunk < len(sources) and sources[chunk] is not None and x._version == version:
        return sources[chunk].read(rows.stop - rows.start)
    return read_part(x[rows])
