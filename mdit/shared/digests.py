"""Digests of files and values: what a cache or a run depends on, whatever process computes them."""
from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK = 2 ** 20  # bytes


def compute_file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def recall_file_digest(path: Path) -> str:
    """`compute_file_digest`, once for a file whose size and time stay: large models are asked for again and again."""
    status = path.stat()
    return _recall(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _recall(path: Path, size: int, time: int) -> str:
    return compute_file_digest(path)


def digest_folder(folder: Path) -> dict[str, str]:
    """The digest of each file of a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): compute_file_digest(path) for path in files}


def add_value(digest: hashlib.blake2b, value: Any) -> None:
    """Adds a value of tensors, lists, dicts and the host's weight adapters to a digest."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        add_value(digest, sorted(value.items(), key=lambda item: str(item[0])))
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} items".encode())
        for item in value:
            add_value(digest, item)
    elif hasattr(value, "weights"):
        add_value(digest, (type(value).__name__, value.weights))
    else:
        digest.update(getattr(value, "__qualname__", repr(value)).encode())
