"""New low-rank terms for the layers of a host's network."""
from __future__ import annotations

import math

import torch
import torch.nn as nn
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...mditface.adapter.reader import FAMILIES, family_of, size_of
from ...mditface.adapter.weights import KINDS, AdapterConfig

# Where the blocks of each family are, and the layers in them (spec section 5.1).
PLACES = {
    ("sd3", "double"): ("joint_blocks.{}.x_block", {
        "qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "mod": "adaLN_modulation.1"}),
    ("flux", "double"): ("double_blocks.{}", {
        "qkv": "img_attn.qkv", "proj": "img_attn.proj", "fc1": "img_mlp.0", "fc2": "img_mlp.2", "mod": "img_mod.lin"}),
    ("flux", "single"): ("single_blocks.{}", {
        "linear1": "linear1", "linear2": "linear2", "mod": "modulation.lin"}),
}
AFTER_KEYS = {"proj", "fc1", "fc2", "linear2"}


def base_of(base: ModelPatcher) -> tuple[str, int, tuple[int, int]]:
    """Family, width, and number of double and single blocks. Raises ValueError for a model that has no adapters."""
    network = base.model.diffusion_model
    family = family_of(network)
    if family is None:
        raise ValueError(f"base: a {type(base.model).__name__} cannot read masks by an adapter, which serves "
                         f"{FAMILIES}")
    return family, *size_of(network)


def layers_of(network: nn.Module, config: AdapterConfig, wanted: tuple[str, ...]) -> dict[str, nn.Module]:
    """The wanted layers by the names of their terms; those of the last block only as far as its keys need them."""
    names = [(kind, i) for kind, count in zip(KINDS, config.depth) for i in range(count)]
    found = {}
    for kind, i in names:
        block, layers = PLACES[config.family, kind]
        for layer, place in layers.items():
            if layer in wanted and not ((kind, i) == names[-1] and layer in AFTER_KEYS):
                found[f"{kind}.{i}.{layer}"] = network.get_submodule(f"{block.format(i)}.{place}")
    return found


def new_terms(network: nn.Module, config: AdapterConfig, wanted: tuple[str, ...], seed: int
              ) -> dict[str, dict[str, Tensor]]:
    """Terms that change nothing yet: `down` as a new linear layer starts, `up` zero."""
    generator = torch.Generator().manual_seed(seed)
    terms = {}
    for name, layer in layers_of(network, config, wanted).items():
        down = torch.empty(config.rank, layer.in_features)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        terms[name] = {"down": down, "up": torch.zeros(layer.out_features, config.rank)}
    if not terms:
        raise ValueError(f"layers: a model of family {config.family} has none of {', '.join(wanted)}")
    return terms
