"""Reading files of weights. Every error names the node's input, the file, what was found and what to do."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

import comfy.utils

CONTAINERS = ("model", "state_dict")  # keys under which trainers save the weights
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}  # parts of names that torch's wrappers of a network add


def read_tensors(path: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file that the node's input `source` names.

    A pickled file may hold anything else instead. Raises ValueError for a file that cannot be read.
    """
    try:
        weights, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except Exception as error:
        raise ValueError(f"{source}: '{path}' cannot be read as a {Path(path).suffix[1:]} file ({error}): "
                         "it is truncated or of another format; download it again") from error
    return weights, metadata or {}


def read_weights(path: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, all of them finite, and the header of a safetensors file."""
    weights, metadata = read_tensors(path, source)
    check_finite(weights, path, source)
    return strip_wrappers(weights), metadata


def read_state_dict(path: str, source: str, prefixes: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickle, whether bare or in one of the CONTAINERS.

    `prefixes` are taken off the names, one after the other. Raises ValueError for a file without tensors.
    """
    found, _ = read_tensors(path, source)
    for key in CONTAINERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise ValueError(f"{source}: '{path}' holds a {type(found).__name__}, not weights: take the original file")
    weights = {name: weight for name, weight in found.items() if isinstance(weight, Tensor)}
    if not weights:
        raise ValueError(f"{source}: '{path}' holds no weights: take the original file")
    weights = strip_wrappers(weights)
    for prefix in prefixes:
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return weights


def strip_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without WRAPPERS in their names, wherever these stand; as they are where two would get one name."""
    found = {}
    for name, weight in weights.items():
        found[".".join(part for part in name.split(".") if part not in WRAPPERS)] = weight
    return found if len(found) == len(weights) else weights


@contextlib.contextmanager
def name_file(path: str, source: str) -> Iterator[None]:
    """Puts the node's input and the file before what went wrong inside the block, as a ValueError."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source}: '{path}': {error}") from error


def store_header(header: Mapping[str, str]) -> dict[str, Tensor]:
    """A header as weights of bytes, for the host's saving nodes, which write a header of their own."""
    return {name: torch.tensor(list(text.encode()), dtype=torch.uint8) for name, text in header.items()}


def take_header(weights: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Takes the header that `store_header` made out of the weights. Its names begin with `prefix`.

    Raises ValueError where another tool changed its type.
    """
    header = {}
    for name in [name for name in weights if name.startswith(prefix)]:
        stored = weights.pop(name)
        if stored.dtype != torch.uint8:
            raise ValueError(f"{name} is stored as {stored.dtype}, not as bytes: another tool converted it; use the "
                             "original file")
        header[name] = bytes(stored.tolist()).decode()
    return header


def take_out(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the weights under a prefix out of `weights`."""
    return {name[len(prefix):]: weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def read_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shapes of a module's parameters and buffers, by name: what `check_layout` expects in a file."""
    return {name: weight.shape for name, weight in module.state_dict().items()}


def check_layout(weights: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: str, source: str, *,
                 allow_unknown: bool = False):
    """Raises ValueError unless `weights` has exactly the names and shapes of `shapes`.

    `allow_unknown` accepts further weights.
    """
    missing = sorted(shapes.keys() - weights.keys())
    unknown = [] if allow_unknown else sorted(weights.keys() - shapes.keys())
    misshapen = [f"{name} is {tuple(weights[name].shape)}, must be {tuple(shape)}" for name, shape in shapes.items()
                 if name in weights and tuple(weights[name].shape) != tuple(shape)]
    found = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    if problems := [f"{what} [{join_names(names)}]" for what, names in found.items() if names]:
        raise ValueError(f"{source}: '{path}' does not fit its model: {', '.join(problems)}; it is cut, renamed or of "
                         "another model: take the original file")


def check_finite(weights: Mapping[str, Tensor], path: str, source: str):
    """Raises ValueError where a weight is NaN or infinite."""
    broken = [name for name, weight in weights.items()
              if weight.is_floating_point() and not torch.isfinite(weight.float()).all()]
    if broken:
        raise ValueError(f"{source}: '{path}' holds NaN or infinite numbers in {join_names(broken)}: "
                         "it is damaged; download it again")


def join_names(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
