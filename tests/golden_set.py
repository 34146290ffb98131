"""Reads golden sets. Another set than the repository's may lack a file or a tensor: its tests are skipped by name."""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file


def lack(folder: Path, what: str):
    """Ends a test of what a set does not hold. The repository's own sets hold everything."""
    end = pytest.skip if "MDIT_GOLDEN" in os.environ else pytest.fail
    end(f"the set '{folder.name}' has no {what}")


def find(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        lack(folder, name)
    return folder / name


def find_all(folder: Path, pattern: str) -> list[Path]:
    """The files of a pattern, at least one."""
    return sorted(folder.glob(pattern)) or lack(folder, pattern)


class Entries(dict[str, Any]):
    """What a file holds, by name. A test ends where it asks for a name that the file lacks."""

    def __init__(self, file: Path, entries: dict[str, Any], prefix: str = ""):
        super().__init__(entries)
        self.file = file
        self.prefix = prefix

    def __missing__(self, name: str):
        lack(self.file.parent, f"'{self.prefix}{name}' in {self.file.name}")

    def under(self, prefix: str) -> Entries:
        """The entries whose names begin with a prefix, without it."""
        found = {name.removeprefix(prefix): entry for name, entry in self.items() if name.startswith(prefix)}
        return Entries(self.file, found, self.prefix + prefix)


def load(file: Path) -> Entries:
    """The tensors of a case or run. Options that are numbers may stand in the metadata instead."""
    options = {name: torch.tensor(value, dtype=torch.float32).view(-1)
               for name, value in read_metadata(file).items() if is_numeric(value)}
    return Entries(file, options | load_file(file))


def load_all(folder: Path, pattern: str) -> dict[str, Entries]:
    """The cases or runs of a pattern, by the names of their files."""
    return {path.stem: load(path) for path in find_all(folder, pattern)}


def read(folder: Path, name: str) -> Entries:
    file = find(folder, name)
    return Entries(file, load_file(file))


def read_metadata(file: Path) -> Entries:
    """A file's metadata, JSON parsed and other texts as they are; empty where it has none."""
    metadata = safe_open(file, "pt").metadata() or {}
    return Entries(file, {name: parse(value) for name, value in metadata.items()})


def parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_numeric(value: Any) -> bool:
    """Whether a value is a number, or a list of numbers."""
    return all(type(item) in (int, float) for item in (value if isinstance(value, list) else [value]))
