"""The published containers of PT-DiT and its VAE (spec sections 2 and 10)."""
from __future__ import annotations

import torch
from torch import Tensor

from ..shared.weight_files import check_finite, listed, tensors


def read_weights(path: str, source: str) -> dict[str, Tensor]:
    """The weights of a safetensors, .pt, .pth or .ckpt file, whether bare or under the key `model` or `state_dict`.

    `source` is the node's input that names the file. Raises ValueError for a file that cannot be read.
    """
    found, _ = tensors(path, source)
    found = found if isinstance(found, dict) else {}
    for key in ("model", "state_dict"):
        if isinstance(found.get(key), dict):
            found = found[key]
    return {name: weight for name, weight in found.items() if isinstance(weight, Tensor)}


def check_weights(module: torch.nn.Module, weights: dict[str, Tensor], path: str, source: str):
    """Raises ValueError unless the module finds all of its parameters, in its shapes and finite."""
    expected = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    if missing := [name for name in expected if name not in weights]:
        raise ValueError(f"{source}: '{path}' lacks {listed(missing)}: it was cut or renamed; download it again")
    wrong = [f"{name} is {tuple(weights[name].shape)}, must be {shape}" for name, shape in expected.items()
             if tuple(weights[name].shape) != shape]
    if wrong:
        raise ValueError(f"{source}: '{path}' has parts that do not fit each other: {listed(wrong)}; download it again")
    check_finite(weights, path, source)
