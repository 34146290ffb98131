"""The static cache: keys and values of the mask stream, stored as long as the mask exists (docs/design/mditface.md,
section 6)."""
from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from torch import Tensor

import comfy.model_management
import comfy.model_patcher

CAPACITY = 2
REPORT_KEY = "mdit_report"
LEVELS = 127  # of an 8-bit number, on each side of zero


@dataclass
class RunReport:
    """What one sampling run did on the static path.

    passes, hits: entries computed, and entries found.
    bytes: size of the store that was used last.
    seconds: time of the passes.
    reads: for each reader the block calls that read a mask, and those that should have.
    replacements: what other nodes had put in place of the model's own code when blocks did not read.
    notes: further lines.
    """
    passes: int = 0
    hits: int = 0
    bytes: int = 0
    seconds: float = 0.0
    reads: dict[str, list[int]] = field(default_factory=dict)
    replacements: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        line = (f"static passes {self.passes}, cache hits {self.hits}, cache bytes {self.bytes}, "
                f"static seconds {self.seconds:.3f}")
        return "\n".join([line, *self.notes])


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """(b, H, M, D) -> int8 of the same shape and a float32 scale per channel (b, H, 1, D)."""
    x = x.float()
    largest = x.abs().amax(dim=2, keepdim=True)
    scale = (largest / LEVELS).clamp(min=torch.finfo(x.dtype).tiny)  # also where a channel is zero
    return (x / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def restore(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to rounding."""
    return (x * scale).to(dtype)


class StaticEntry:
    """Keys and values (b, H, M, D) of every block, with the logits' bias (b, M) of merged tokens or None.

    Indexing gives a block's pair on the device of the computation, wherever the entry is stored. From RAM the next
    block is copied while this one is in use.

    resident: false for an entry that stays in RAM by the user's choice. The host neither counts nor loads it.
    hits: how often a run found the entry.
    """

    resident = True
    hits = 0

    def __init__(self, kv: Iterable[tuple[Tensor, Tensor]], bias: Tensor | None, eight_bit: bool):
        self.blocks = []
        self.bias = bias
        self.ahead = None  # the next block, while it is copied
        for k, v in kv:
            self.device = k.device
            self.dtype = k.dtype
            self.blocks.append((*quantize(k), *quantize(v)) if eight_bit else (compact(k), compact(v)))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        block = self.ahead
        self.ahead = None
        if block is None or block[0] != i:
            block = self.fetch(i)
        if self.stored_on != self.device and i + 1 < len(self.blocks):
            self.ahead = self.fetch(i + 1)
        _, parts, stream = block
        comfy.model_management.sync_stream(self.device, stream)
        if len(parts) == 2:
            return parts[0], parts[1]
        k, k_scale, v, v_scale = parts
        return restore(k, k_scale, self.dtype), restore(v, v_scale, self.dtype)

    def fetch(self, i: int) -> tuple[int, list[Tensor], object]:
        """i, block i's tensors on the device, and the stream that is still copying them from RAM, or None."""
        management = comfy.model_management
        if self.stored_on == self.device:
            return i, list(self.blocks[i]), None
        stream = management.get_offload_stream(self.device)
        if stream is not None:  # the computation may still read the stream's next buffer
            stream.wait_stream(management.current_stream(self.device))
        non_blocking = management.device_supports_non_blocking(self.device)
        copies = [management.cast_to(x, None, self.device, non_blocking, stream=stream) for x in self.blocks[i]]
        return i, copies, stream

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for block in self.blocks for x in block)

    @property
    def stored_on(self) -> torch.device:
        return self.blocks[0][0].device

    def store_on(self, device: torch.device):
        if self.stored_on == device:
            return
        self.ahead = None
        blocks = []
        for block in self.blocks:
            blocks.append(tuple(x.to(device) for x in block))
        self.blocks = blocks


class StaticMaskCache(nn.Module):
    """The entries of one mask, least recently used first: the `model` that the host's memory management sees."""

    def __init__(self):
        super().__init__()
        self.entries: OrderedDict[Hashable, StaticEntry] = OrderedDict()
        self.planned = 0

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())

    def list_resident(self) -> list[StaticEntry]:
        return [entry for entry in self.entries.values() if entry.resident]

    def move(self, source: torch.device, target: torch.device, budget: float) -> int:
        """Moves entries stored on `source`, least recently used first, until `budget` bytes moved."""
        moved = 0
        for entry in self.list_resident():
            if entry.stored_on == source and source != target and moved < budget:
                entry.store_on(target)
                moved += entry.nbytes
        return moved


class CachePatcher(comfy.model_patcher.ModelPatcher):
    """Lets the host load, count, offload and unload a mask's entries like a model's weights (docs/design/mditface.md,
    section 6.3)."""

    def model_size(self) -> int:
        return sum(entry.nbytes for entry in self.model.list_resident()) + self.model.planned

    def loaded_size(self) -> int:
        return sum(entry.nbytes for entry in self.model.list_resident() if entry.stored_on == self.load_device)

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        return self.model.move(self.offload_device, self.load_device, extra_memory)

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        return self.model.move(self.load_device, self.offload_device, memory_to_free)

    def detach(self, unpatch_all=True) -> StaticMaskCache:
        """On every reload the host passes False for `unpatch_all`; the entries must then stay on their device."""
        if unpatch_all:
            self.model.move(self.load_device, self.offload_device, float("inf"))
        return self.model


class StaticStore:
    """A mask's cache and its memory holder on each device. Shared by every copy of the mask."""

    def __init__(self):
        self.cache = StaticMaskCache()
        self.needed = 0
        self.patchers: dict[torch.device, CachePatcher] = {}
        self.lock = threading.RLock()

    def get_patcher(self, load_device, offload_device) -> CachePatcher:
        if load_device not in self.patchers:
            self.patchers[load_device] = CachePatcher(self.cache, load_device, offload_device)
        return self.patchers[load_device]

    @contextlib.contextmanager
    def reserve(self, entries: int, nbytes: int):
        """During a run, the store holds `entries` more entries, and the host makes room for `nbytes` new bytes."""
        self.needed += entries
        self.cache.planned += nbytes
        try:
            yield
        finally:
            self.needed -= entries
            self.cache.planned = 0

    def get(self, key: Hashable, compute: Callable[[], StaticEntry], report: RunReport) -> StaticEntry:
        """The entry of this key, computed if it is absent. An error or an interrupt in `compute` leaves nothing."""
        with self.lock:
            entry = self.cache.entries.get(key)
            if entry is not None:
                report.hits += 1
                entry.hits += 1
                self.cache.entries.move_to_end(key)
            else:
                entry = compute_and_count(compute, report)
                self.cache.planned = max(0, self.cache.planned - entry.nbytes)
                while len(self.cache.entries) >= max(CAPACITY, self.needed):
                    self.cache.entries.popitem(last=False)
                self.cache.entries[key] = entry
            report.bytes = self.cache.nbytes
            return entry


def compact(x: Tensor) -> Tensor:
    """The tensor in memory of its own, if it is a view that would keep more alive."""
    return x.clone() if x.untyped_storage().nbytes() > x.nbytes else x


def compute_and_count(compute: Callable[[], StaticEntry], report: RunReport) -> StaticEntry:
    """The computed entry, counted in the report as a pass."""
    start = time.perf_counter()
    entry = compute()
    report.passes += 1
    report.seconds += time.perf_counter() - start
    return entry
