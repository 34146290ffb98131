"""Files of a DynaST generator in the published layout (docs/design/dynast.md, section 7)."""
from __future__ import annotations

import re

import torch
from torch import Tensor

from ..shared.weight_files import check_layout, name_file, read_state_dict
from .config import DynaSTConfig, read_config
from .model import DynaST

SOURCE = "weights_name"
PREFIXES = ("net.netG.",)  # in files that the authors' trainer wrote
SPECTRAL = re.compile(r"encoder_(q|kv)\.layer\d\.0|embed_\w+\.conv_[01]")  # convolutions under spectral norm
TWINS = ("relu.weight", "model.2.weight")  # both names of the PReLU of a residual block


def read_generator(path: str, top_k: int, smooth: float) -> tuple[DynaSTConfig, dict[str, Tensor]]:
    """The sizes and the state dict of a generator file, with spectral norm folded into the weights.

    Raises ValueError, naming the file and what is wrong, unless it is a whole generator. No code in the file is run.
    """
    found = read_state_dict(path, SOURCE, PREFIXES)
    with name_file(path, SOURCE):
        config = read_config(found, top_k, smooth)
        shapes = list_published_shapes(config)
    found = add_twins(found, shapes)
    check_layout(found, shapes, path, SOURCE)
    return config, fold_spectral_norm(found)


def list_published_shapes(config: DynaSTConfig) -> dict[str, torch.Size]:
    """The names and shapes in a file with these sizes."""
    with torch.device("meta"):
        weights = DynaST(config).state_dict()
    shapes = {}
    for name, weight in weights.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and SPECTRAL.fullmatch(module):
            shapes[name + "_orig"] = weight.shape
            shapes[name + "_u"] = weight.shape[:1]
            shapes[name + "_v"] = torch.Size([weight[0].numel()])
        else:
            shapes[name] = weight.shape
    return shapes


def add_twins(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """The weights, where both names of a PReLU are present."""
    weights = dict(weights)
    for name in shapes.keys() - weights.keys():
        for one, other in (TWINS, TWINS[::-1]):
            if name.endswith(one) and (twin := name.removesuffix(one) + other) in weights:
                weights[name] = weights[twin]
    return weights


def fold_spectral_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights W / (u W v) in float32, with the stored u and v (docs/design/dynast.md, section 7.2)."""
    found = {}
    for name, weight in weights.items():
        if name.endswith("weight_orig"):
            name = name.removesuffix("_orig")
            u = weights[name + "_u"].float()
            v = weights[name + "_v"].float()
            weight = weight.float()
            found[name] = weight / torch.dot(u, weight.flatten(1) @ v)
        elif not name.endswith(("weight_u", "weight_v")):
            found[name] = weight.float() if weight.is_floating_point() else weight
    return found
