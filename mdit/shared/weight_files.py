"""Reading files of weights, with words for what is wrong in them."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import comfy.utils


def tensors(path: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file, such as a safetensors file, that the node's input `source` names."""
    try:
        weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except Exception as error:
        raise ValueError(f"{source}: '{path}' cannot be read as a {Path(path).suffix[1:]} file ({error}): "
                         "it is truncated or of another format; download it again") from error
    return weights, metadata or {}


def check_finite(weights: dict[str, Tensor], path: str, source: str):
    """Raises ValueError where a weight is NaN or infinite."""
    broken = [name for name, weight in weights.items()
              if weight.is_floating_point() and not torch.isfinite(weight.float()).all()]
    if broken:
        raise ValueError(f"{source}: '{path}' holds NaN or infinite numbers in {listed(broken)}: "
                         "it is damaged; download it again")


def read(path: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, all of them finite, and the header of a safetensors file that the node's input `source` names."""
    weights, metadata = tensors(path, source)
    check_finite(weights, path, source)
    return weights, metadata


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
