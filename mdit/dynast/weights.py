"""Files of a DynaST generator in the published layout (spec section 7)."""
from __future__ import annotations

import re

import torch
from torch import Tensor

from ..shared.weight_files import check_finite, check_layout, read_state_dict
from .config import DynaSTConfig, read_config
from .model import DynaST

SOURCE = "weights_name"
PREFIXES = ("module.", "net.netG.")  # of files that other wrappers wrote
SPECTRAL = re.compile(r"encoder_(q|kv)\.layer\d\.0|embed_\w+\.conv_[01]")  # convolutions under spectral norm
TWINS = ("relu.weight", "model.2.weight")  # names of the one PReLU of a residual block


def read(path: str, top_k: int, smooth: float) -> tuple[DynaSTConfig, dict[str, Tensor]]:
    """The sizes, and the state dict with spectral norm folded in, of a file that the node's input names.

    Raises ValueError, naming the file and what is wrong, for anything but a whole generator. No code in it is run.
    """
    found = read_state_dict(path, SOURCE, PREFIXES)
    check_finite(found, path, SOURCE)
    try:
        config = read_config(found, top_k, smooth)
    except ValueError as error:
        raise ValueError(f"{SOURCE}: '{path}': {error}") from error
    shapes = published_shapes(config)
    found = add_twins(found, shapes)
    check_layout(found, shapes, path, SOURCE)
    return config, folded(found)


def published_shapes(config: DynaSTConfig) -> dict[str, torch.Size]:
    """What a file of these sizes holds, by name."""
    with torch.device("meta"):
        weights = DynaST(config).state_dict()
    shapes = {}
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and SPECTRAL.fullmatch(module):
            shapes |= {name + "_orig": weight.shape, name + "_u": weight.shape[:1],
                       name + "_v": torch.Size([weight[0].numel()])}
        else:
            shapes[name] = weight.shape
    return shapes


def add_twins(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The weights with both names of what a network saves under two."""
    weights = dict(weights)
    for name in shapes.keys() - weights.keys():
        for one, other in (TWINS, TWINS[::-1]):
            if name.endswith(one) and (twin := name.removesuffix(one) + other) in weights:
                weights[name] = weights[twin]
    return weights


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With spectral norm as a part of the weights: W / (u W v), with the stored u and v (section 7.2), in float32."""
    found = {}
    for name, weight in weights.items():
        if name.endswith("weight_orig"):
            name = name.removesuffix("_orig")
            weight, u, v = (weights[name + end].float() for end in ("_orig", "_u", "_v"))
            found[name] = weight / torch.dot(u, weight.flatten(1) @ v)
        elif not name.endswith(("weight_u", "weight_v")):
            found[name] = weight.float() if weight.is_floating_point() else weight
    return found
