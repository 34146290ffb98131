"""What the static caches of masks and exemplars hold at the moment."""
from __future__ import annotations

from typing import NamedTuple

from ..shared.masks import is_mask
from .cache import StaticEntry
from .mask import MaskReference, MaskSource


class CacheContents(NamedTuple):
    entries: list[StaticEntry]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries)

    @property
    def hits(self) -> int:
        return sum(entry.hits for entry in self.entries)

    @property
    def devices(self) -> str:
        return ", ".join(sorted({str(entry.stored_on) for entry in self.entries}))

    def __str__(self) -> str:
        lines = [f"cache entries {len(self.entries)}, cache bytes {self.nbytes}, cache hits {self.hits}"]
        lines += [f"entry {number}: {entry.nbytes} bytes on {entry.stored_on}, {len(entry.blocks)} blocks, "
                  f"{entry.hits} hits" for number, entry in enumerate(self.entries, 1)]
        return "\n".join(lines)


def list_masks(source: MaskSource | list) -> list[MaskSource]:
    """The masks of an MDIT_MASK or a CONDITIONING, and the exemplars on them, each once."""
    if isinstance(source, MaskSource):
        return [source]
    found = {}  # in order
    for _, options in source:
        for key, reference in options.items():
            if is_mask(key) and isinstance(reference, MaskReference):
                found[reference.mask] = None
                if reference.exemplar is not None:
                    found[reference.exemplar] = None
    return list(found)


def list_entries(source: MaskSource | list) -> CacheContents:
    """The entries of all masks and exemplars in an MDIT_MASK or a CONDITIONING, for each the last used one last."""
    return CacheContents([entry for mask in list_masks(source) for entry in mask.store.list_entries()])
