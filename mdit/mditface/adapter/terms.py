"""The low-rank terms of an adapter."""
from __future__ import annotations

import hashlib

import torch
import torch.nn as nn
from torch import Tensor

import comfy.model_management
import comfy.model_patcher
import comfy.ops

from ..layers import LowRank
from .config import AdapterConfig

HALVES = {"down", "up"}


class Adapter(nn.Module):
    """The terms by block and layer: `double.0.qkv`, `single.3.linear1`.

    `id` is a digest of configuration and weights, `patcher` what the host loads the weights by.
    """

    def __init__(self, config: AdapterConfig, terms: dict[str, dict[str, Tensor]]):
        super().__init__()
        self.config = config
        self.id = compute_digest(config, terms)
        self.terms = nn.ModuleDict()
        for name, halves in sorted(terms.items()):
            self.terms[make_module_name(name)] = make_term(config, halves["down"], halves["up"])
        management = comfy.model_management
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self, management.get_torch_device(), management.unet_offload_device())

    def compute_term(self, name: str, x: Tensor) -> Tensor | None:
        """What the adapter adds to the output of a layer with the input x; None where the layer has no term.

        The terms of q, k and v alone stand for the first rows of a fused layer.
        """
        name = make_module_name(name)
        if name in self.terms:
            return self.terms[name](x)
        fused = [f"{name}_{part}" for part in "qkv"]
        if fused[0] not in self.terms:
            return None
        return torch.cat([self.terms[part](x) for part in fused], dim=-1)


def make_module_name(name: str) -> str:
    """A module's name holds no dot."""
    return name.replace(".", "_")


def make_term(config: AdapterConfig, down: Tensor, up: Tensor) -> LowRank:
    """A frozen term of down (rank, inputs) and up (outputs, rank)."""
    term = LowRank(down.shape[1], up.shape[0], config.rank, config.alpha, down.dtype, "meta", comfy.ops.manual_cast)
    term.load_state_dict({"down.weight": down, "up.weight": up}, assign=True)
    return term.requires_grad_(False)


def compute_digest(config: AdapterConfig, terms: dict[str, dict[str, Tensor]]) -> str:
    digest = hashlib.blake2b(repr(config).encode())
    for name, halves in sorted(terms.items()):
        for half in (halves["down"], halves["up"]):
            digest.update(repr((name, half.shape, half.dtype)).encode())
            digest.update(half.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
