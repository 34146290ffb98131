"""The low-rank terms of an adapter."""
from __future__ import annotations

import copy
import hashlib

import torch
import torch.nn as nn
from torch import Tensor

import comfy.model_management
import comfy.ops

from ...shared.base_model import make_patcher
from ...shared.parts import DeviceCopies
from ..layers import LowRank
from .config import AdapterConfig
from .mixers import OnePicture

HALVES = {"down", "up"}
FUSED_PARTS = ("q", "k", "v", "mlp")


class AdapterTerms(nn.ModuleDict):
    """The terms by block and layer, `double.0.qkv` or `single.3.linear1`: the `model` that the host loads."""

    def compute_term(self, name: str, x: Tensor) -> Tensor | None:
        """What the adapter adds to the output of a layer with the input x; None where the layer has no term.

        The terms of q, k and v alone stand for the first rows of a fused layer, that of the MLP for the rest.
        """
        name = make_module_name(name)
        if name in self:
            return self[name](x)
        fused = [f"{name}_{part}" for part in FUSED_PARTS if f"{name}_{part}" in self]
        return torch.cat([self[part](x) for part in fused], dim=-1) if fused else None


class Adapter:
    """An adapter's configuration, terms, patcher and copies. `id` is a digest of configuration and weights.

    mixer: makes the condition tokens of a joint stream.

    It is no module: a module that held its own patcher would be a cycle, which only the garbage collector frees.
    """

    def __init__(self, config: AdapterConfig, terms: dict[str, dict[str, Tensor]], disable_dynamic: bool = False):
        self.config = config
        self.id = compute_digest(config, terms)
        self.terms = AdapterTerms()
        for name, halves in sorted(terms.items()):
            self.terms[make_module_name(name)] = make_term(config, halves["down"], halves["up"])
        management = comfy.model_management
        devices = management.get_torch_device(), management.unet_offload_device()
        self.patcher = make_patcher(self.terms, *devices, disable_dynamic)
        self.copies = DeviceCopies(self.patcher)
        self.mixer = OnePicture()

    def with_mixer(self, mixer: OnePicture) -> Adapter:
        """The same weights with condition tokens of another kind."""
        adapter = copy.copy(self)
        adapter.mixer = mixer
        adapter.id = f"{self.id}.{mixer.id}"
        return adapter


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
