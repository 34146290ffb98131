"""Reads golden sets. Another set than the repository's may lack a file or a tensor: its tests are skipped by name."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor


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


def read(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(find(folder, name))


def read_metadata(file: Path) -> dict:
    """A file's metadata, numbers and lists of JSON parsed; empty where it has none."""
    metadata = safe_open(file, "pt").metadata() or {}
    return {key: json.loads(value) if value[:1] in "[{-0123456789" else value for key, value in metadata.items()}
