"""Reading files of weights. Every error names the node's input, the file, what was found and what to do."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .tensor_files import open_tensors
from .text_files import Refused, shorten

CONTAINERS = ("model", "state_dict")  # keys under which trainers save the weights
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}  # parts of names that torch's wrappers of a network add
COUNTERS = ("num_batches_tracked", "position_ids", "num_updates")  # ends of names of whole numbers
LONGEST_NAME = 160  # letters of a weight's name and shapes in an error
MOST_BLOCKS = 256  # of a network; published ones have up to 57


def read_tensors(path: str, source: str) -> tuple[Any, dict[str, str]]:
    """The tensors and the header of a file that the node's input `source` names.

    A pickled file may hold anything else instead. Raises FileNotFoundError where there is no file, and ValueError for
    one that cannot be read or is unsafe.
    """
    try:
        return open_tensors(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source}: {error}") from error
    except Refused as error:
        raise ValueError(f"{source}: '{path}': {error}") from error
    except Exception as error:  # each format raises errors of its own
        raise ValueError(f"{source}: '{path}' cannot be read as a {Path(path).suffix[1:]} file ({shorten(error)}): "
                         "it is truncated or of another format; download it again") from error


def read_weights(path: str, source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file or of a pickle, whether bare or in one of the CONTAINERS, and the header.

    Raises ValueError for a file without tensors.
    """
    found, metadata = read_tensors(path, source)
    for key in CONTAINERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return strip_wrappers(list_weights(found, path, source)), metadata


def read_state_dict(path: str, source: str, prefixes: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of `read_weights`. `prefixes` are taken off the names, one after the other."""
    weights, _ = read_weights(path, source)
    for prefix in prefixes:
        weights = {name.removeprefix(prefix): weight for name, weight in weights.items()}
    return weights


def list_weights(found: Any, path: str, source: str) -> dict[str, Tensor]:
    """The tensors of a dict by their names. Raises ValueError if there are none."""
    if not isinstance(found, dict):
        raise ValueError(f"{source}: '{path}' holds a {type(found).__name__}, not weights: take the original file")
    weights = {name: weight for name, weight in found.items() if isinstance(weight, Tensor)}
    if not weights or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{source}: '{path}' holds no weights with names: take the original file")
    return weights


def strip_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without WRAPPERS in their names, wherever these stand; as they are where two would get one name."""
    found = {}
    for name, weight in weights.items():
        found[".".join(part for part in name.split(".") if part not in WRAPPERS)] = weight
    return found if len(found) == len(weights) else weights


@contextlib.contextmanager
def name_file(path: str, source: str) -> Iterator[None]:
    """Puts the node's input and the file before what went wrong inside the block, as a ValueError.

    What a reader did not expect, such as a key that is missing, is told as damage. An error that names the input
    already and one of memory stay as they are.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if str(error).startswith(f"{source}: "):
            raise
        found = error if isinstance(error, ValueError) else (
            f"it does not fit its model ({type(error).__name__}: {shorten(error)}): take the original file")
        raise ValueError(f"{source}: '{path}': {found}") from error


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
        if stored.dtype != torch.uint8 or stored.ndim != 1:
            raise ValueError(f"{name} is stored as {stored.dtype}, not as bytes: another tool converted it; use the "
                             "original file")
        header[name] = bytes(stored.tolist()).decode(errors="replace")
    return header


def take_out(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Takes the weights under a prefix out of `weights`."""
    return {name[len(prefix):]: weights.pop(name) for name in list(weights) if name.startswith(prefix)}


def read_shape(weights: Mapping[str, Tensor], name: str, dims: int) -> torch.Size:
    """The shape of a weight, for sizes. Raises ValueError unless it has `dims` dimensions, none of them 0."""
    if name not in weights:
        raise ValueError(f"it lacks {name}: it is cut, renamed or of another model; take the original file")
    shape = weights[name].shape
    if len(shape) != dims or 0 in shape:
        raise ValueError(f"{name} is {tuple(shape)}, must have {dims} dimensions: it is damaged; download it again")
    return shape


def check_count(count: int, weights: Mapping[str, Tensor], what: str):
    """Raises ValueError for more blocks than a file can hold, before anything is built for them."""
    if not 0 < count <= min(MOST_BLOCKS, len(weights)):
        raise ValueError(f"it tells of {count} {what}, but holds {len(weights)} weights: it is damaged or of another "
                         "model; take the original file")


def check_total(network: nn.Module, weights: Mapping[str, Tensor]):
    """Raises ValueError for a network on the meta device that needs more numbers than a file holds, before it is built
    elsewhere: one shape of a file may demand a network of any size."""
    needed = sum(weight.numel() for weight in network.state_dict().values())
    found = sum(weight.numel() for weight in weights.values())
    if needed > 2 * found:  # what a whole file lacks is told by its loader
        raise ValueError(f"it tells of a network of {needed} numbers, but holds {found}: it is damaged or of another "
                         "model; take the original file")


def read_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """The shapes of a module's parameters and buffers, by name: what `check_layout` expects in a file."""
    return {name: weight.shape for name, weight in module.state_dict().items()}


def check_layout(weights: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: str, source: str, *,
                 allow_unknown: bool = False):
    """`check_shapes`, then `check_finite` of the weights that `shapes` names."""
    check_shapes(weights, shapes, path, source, allow_unknown=allow_unknown)
    check_finite({name: weights[name] for name in shapes}, path, source)


def check_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: str, source: str, *,
                 allow_unknown: bool = False):
    """Raises ValueError unless `weights` has exactly the names and shapes of `shapes`. None of the weights is read.

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
    """Raises ValueError where a weight is NaN or infinite, or of whole numbers that only COUNTERS have.

    To be called with weights of known shapes, as it reads them all.
    """
    whole = [name for name, weight in weights.items()
             if not weight.is_floating_point() and not name.endswith(COUNTERS)]
    if whole:
        raise ValueError(f"{source}: '{path}' holds whole numbers in {join_names(whole)}: another tool converted it; "
                         "use the original file")
    broken = [name for name, weight in weights.items() if weight.is_floating_point() and not is_finite(weight)]
    if broken:
        raise ValueError(f"{source}: '{path}' holds NaN or infinite numbers in {join_names(broken)}: "
                         "it is damaged; download it again")


def is_finite(weight: Tensor) -> bool:
    """Whether all numbers are finite, without a copy of them but for types of one byte."""
    if weight.numel() == 0:
        return True
    low, high = torch.aminmax(weight.half() if weight.itemsize == 1 else weight)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def join_names(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    shown = ", ".join(shorten(name, LONGEST_NAME) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
