"""New low-rank terms for the layers of a host's network."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...mditface.adapter.config import AdapterConfig
from ...mditface.adapter.families import FAMILIES, Family, find_family, list_family_titles


def find_base_family(base: ModelPatcher) -> Family:
    """The family of a base model. Raises ValueError for a model that has no adapters."""
    family = find_family(base.model.diffusion_model)
    if family is None:
        raise ValueError(f"base: a {type(base.model).__name__} cannot read masks with an adapter. Use a model of "
                         f"{list_family_titles()}")
    return family


def find_layers(network: nn.Module, config: AdapterConfig, wanted: tuple[str, ...]) -> dict[str, nn.Module]:
    """The wanted layers by the names of their terms; those of the last block only as far as its keys need them."""
    family = FAMILIES[config.family]
    blocks = config.list_blocks()
    found = {}
    for kind, i in blocks:
        path, layers = family.blocks[kind]
        last = (kind, i) == blocks[-1]
        for name, layer in layers.items():
            if name in wanted and not (last and layer.after_keys):
                found[f"{kind}.{i}.{name}"] = network.get_submodule(f"{path.format(i)}.{layer.path}")
    return found


def make_new_terms(network: nn.Module, config: AdapterConfig, wanted: tuple[str, ...], seed: int
              ) -> dict[str, dict[str, Tensor]]:
    """Terms that change nothing yet: `down` as a new linear layer starts, `up` zero."""
    generator = torch.Generator().manual_seed(seed)
    terms = {}
    for name, layer in find_layers(network, config, wanted).items():
        down = torch.empty(config.rank, layer.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        terms[name] = {"down": down, "up": torch.zeros(layer.out_features, config.rank)}
    if not terms:
        raise ValueError(f"layers: a model of family {config.family} has none of {', '.join(wanted)}")
    return terms
