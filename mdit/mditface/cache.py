"""The static cache: keys and values of the mask stream, stored as long as the mask exists (docs/design/mditface.md,
section 6)."""
from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

import comfy.model_management
import comfy.model_patcher

CAPACITY = 2
LEVELS = 127  # of an 8-bit number, on each side of zero


@dataclass
class RunReport:
    """What one sampling run did on the static path.

    passes, hits: entries computed, and entries found.
    bytes: size of the store that was used last.
    seconds: time of the passes.
    total: time of the whole run.
    reads: for each reader the block calls that read a mask, and those that should have.
    replacements: what other nodes had put in place of the model's own code when blocks did not read.
    notes: further lines.
    """
    passes: int = 0
    hits: int = 0
    bytes: int = 0
    seconds: float = 0.0
    total: float = 0.0
    reads: dict[str, list[int]] = field(default_factory=dict)
    replacements: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)  # of what threads count

    def __str__(self) -> str:
        line = (f"static passes {self.passes}, cache hits {self.hits}, cache bytes {self.bytes}, "
                f"static seconds {self.seconds:.3f}")
        return "\n".join([f"Drawn in {self.total:.1f} s, {self.describe_mask()}", line, *self.notes])

    def describe_mask(self) -> str:
        if self.passes:
            return "mask computed"
        return "mask reused" if self.hits else "no mask read"


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """(b, H, M, D) -> int8 of the same shape and a float32 scale per channel (b, H, 1, D)."""
    x = x.float()
    largest = x.abs().amax(dim=2, keepdim=True)
    scale = (largest / LEVELS).clamp(min=torch.finfo(x.dtype).tiny)  # also where a channel is zero
    return (x / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def restore(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `quantize`, up to rounding."""
    return (x * scale).to(dtype)


class Fetched(NamedTuple):
    """A block's tensors on the device, and the stream that is still copying them, or None."""
    parts: list[Tensor]
    stream: object


class StaticEntry:
    """Keys and values (b, H, M, D) of every block, with the logits' bias (b, M) of merged tokens or None.

    Indexing gives a block's pair on the device of the computation, wherever the entry is stored. From RAM the next
    block is copied while this one is in use, by any number of groups of rows.

    resident: false for an entry that stays in RAM by the user's choice. The host neither counts nor loads it.
    hits: how often a run found the entry.
    """

    resident = True
    hits = 0

    def __init__(self, kv: Iterable[tuple[Tensor, Tensor]], bias: Tensor | None, eight_bit: bool):
        self.blocks = []
        self.bias = bias
        self.fetched: dict[int, Fetched] = {}  # of an entry in RAM: the block in use and the next one
        for k, v in kv:
            self.device = k.device
            self.dtype = k.dtype
            self.blocks.append((*quantize(k), *quantize(v)) if eight_bit else (compact(k), compact(v)))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        parts = self.read_parts(i)
        if len(parts) == 2:
            return parts[0], parts[1]
        k, k_scale, v, v_scale = parts
        return restore(k, k_scale, self.dtype), restore(v, v_scale, self.dtype)

    def read_parts(self, i: int) -> Sequence[Tensor]:
        """The tensors of block i, as they are stored, on the device of the computation."""
        return self.blocks[i] if self.stored_on == self.device else self.read_ahead(i)

    def read_ahead(self, i: int) -> list[Tensor]:
        """The tensors of block i of an entry in RAM, while the next block is on its way."""
        following = [i + 1] if i + 1 < len(self.blocks) else []
        self.fetched = {j: self.fetched.get(j) or self.fetch(j) for j in [i, *following]}
        parts, stream = self.fetched[i]
        comfy.model_management.sync_stream(self.device, stream)
        return parts

    def fetch(self, i: int) -> Fetched:
        """Copies block i from RAM to the device."""
        management = comfy.model_management
        stream = management.get_offload_stream(self.device)
        if stream is not None:  # the computation may still read the stream's next buffer
            stream.wait_stream(management.current_stream(self.device))
        non_blocking = management.device_supports_non_blocking(self.device)
        copies = [management.cast_to(x, None, self.device, non_blocking, stream=stream) for x in self.blocks[i]]
        return Fetched(copies, stream)

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for block in self.blocks for x in block)

    @property
    def stored_on(self) -> torch.device:
        return self.blocks[0][0].device

    def store_on(self, device: torch.device):
        if self.stored_on == device:
            return
        self.fetched = {}
        blocks = []
        for block in self.blocks:
            blocks.append(tuple(x.to(device) for x in block))
        self.blocks = blocks


class StaticMaskCache(nn.Module):
    """The entries of one mask on one device, least recently used first: the `model` that the host's memory management
    sees.

    planned: bytes that the present runs will add.
    needed: entries that the present runs read at once.
    wanted: keys of the entries that the present runs read.
    """

    def __init__(self):
        super().__init__()
        self.entries: OrderedDict[Hashable, StaticEntry] = OrderedDict()
        self.planned = 0
        self.needed = 0
        self.wanted: set[Hashable] = set()
        self.lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())

    @contextlib.contextmanager
    def reserve(self, entries: int, nbytes: int, keys: Iterable[Hashable] = ()):
        """During a run, the cache holds `entries` more entries, these keys among them, and the host makes room for
        `nbytes` new bytes."""
        with self.lock:
            self.needed += entries
            self.planned += nbytes
            for key in keys:
                self.wanted.add(key)
                self.entries.move_to_end(key)
        try:
            yield
        finally:
            with self.lock:
                self.needed -= entries
                self.planned = 0
                if not self.needed:
                    self.finish()

    def finish(self):
        """After the last of the present runs nothing is wanted, and no fetched block stays on the device."""
        self.wanted.clear()
        for entry in self.entries.values():
            entry.fetched = {}

    def get(self, key: Hashable, compute: Callable[[], StaticEntry], report: RunReport) -> StaticEntry:
        """The entry of this key, computed if it is absent. An error or an interrupt in `compute` leaves nothing."""
        with self.lock:
            entry = self.entries.get(key)
            if entry is not None:
                with report.lock:
                    report.hits += 1
                entry.hits += 1
            else:
                entry = compute_and_count(compute, report)
                self.planned = max(0, self.planned - entry.nbytes)
                self.entries[key] = entry
            self.wanted.add(key)
            self.entries.move_to_end(key)
            while len(self.entries) > max(CAPACITY, self.needed):
                self.entries.popitem(last=False)
            report.bytes = self.nbytes
            return entry

    def count_bytes(self, device: torch.device) -> int:
        """Bytes of the entries on the device, as far as the host moves them."""
        with self.lock:
            return sum(entry.nbytes for entry in self.entries.values() if entry.resident and entry.stored_on == device)

    def list_absent(self, device: torch.device) -> list[StaticEntry]:
        """The wanted entries that the host may load to the device, the last used first."""
        with self.lock:
            wanted = [entry for key, entry in self.entries.items() if key in self.wanted]
        return [entry for entry in reversed(wanted) if entry.resident and entry.stored_on != device]

    def load(self, device: torch.device, budget: float) -> int:
        """Moves wanted entries to the device, each that still fits into the budget of bytes."""
        moved = 0
        for entry in self.list_absent(device):
            if moved + entry.nbytes <= budget:
                entry.store_on(device)
                moved += entry.nbytes
        return moved

    def unload(self, source: torch.device, target: torch.device, nbytes: float) -> int:
        """Moves entries from one device to another, least recently used first, until that many bytes moved."""
        moved = 0
        with self.lock:
            entries = [*self.entries.values()]
        for entry in entries:
            if moved < nbytes and entry.resident and entry.stored_on == source != target:
                entry.store_on(target)
                moved += entry.nbytes
        return moved


class CachePatcher(comfy.model_patcher.ModelPatcher):
    """Lets the host load, count, offload and unload a mask's entries like a model's weights (docs/design/mditface.md,
    section 6.3)."""

    def model_size(self) -> int:
        absent = sum(entry.nbytes for entry in self.model.list_absent(self.load_device))
        return self.loaded_size() + absent + self.model.planned

    def loaded_size(self) -> int:
        return self.model.count_bytes(self.load_device)

    def current_loaded_device(self) -> torch.device:
        return self.load_device

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False) -> int:
        """A negative budget demands that much memory back."""
        if extra_memory < 0:
            self.partially_unload(self.offload_device, -extra_memory)
            return 0
        return self.model.load(self.load_device, extra_memory)

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False) -> int:
        return self.model.unload(self.load_device, self.offload_device, memory_to_free)

    def detach(self, unpatch_all=True) -> StaticMaskCache:
        """On every reload the host passes False for `unpatch_all`; the entries must then stay on their device."""
        if unpatch_all:
            self.partially_unload(self.offload_device, float("inf"))
        return self.model


class StaticStore:
    """A mask's cache on each device, with its memory holder. Shared by every copy of the mask.

    The host takes two patchers of one model for copies and lists only one, so each device has a cache of its own.
    """

    def __init__(self):
        self.caches: dict[torch.device, StaticMaskCache] = {}
        self.patchers: dict[torch.device, CachePatcher] = {}

    def get_cache(self, device: torch.device) -> StaticMaskCache:
        return self.caches.setdefault(device, StaticMaskCache())

    def get_patcher(self, load_device: torch.device, offload_device: torch.device) -> CachePatcher:
        if load_device not in self.patchers:
            self.patchers[load_device] = CachePatcher(self.get_cache(load_device), load_device, offload_device)
        return self.patchers[load_device]

    def list_entries(self) -> list[StaticEntry]:
        """The entries on all devices, for each device the last used one last."""
        return [entry for cache in self.caches.values() for entry in [*cache.entries.values()]]


def compact(x: Tensor) -> Tensor:
    """The tensor in memory of its own, if it is a view that would keep more alive."""
    return x.clone() if x.untyped_storage().nbytes() > x.nbytes else x


def compute_and_count(compute: Callable[[], StaticEntry], report: RunReport) -> StaticEntry:
    """The computed entry, counted in the report as a pass."""
    start = time.perf_counter()
    entry = compute()
    with report.lock:
        report.passes += 1
        report.seconds += time.perf_counter() - start
    return entry
