"""Models that are kept from run to run, under the host's memory management, while their file stays as it is."""
from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

import comfy.model_management

Model = TypeVar("Model")
KEPT = 4  # models


def recall_model(load: Callable[[Path], Model], path: Path) -> Model:
    """`load(path)`, once for a file whose stamp stays, on each device. Raises what `load` raises."""
    try:
        status = path.stat()
    except OSError:
        return load(path)  # which names the fault
    stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _load_once(load, path, stamp, comfy.model_management.get_torch_device())


@functools.lru_cache(maxsize=KEPT)
def _load_once(load: Callable[[Path], Model], path: Path, stamp: tuple[int, ...], device: torch.device) -> Model:
    return load(path)
