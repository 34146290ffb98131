"""The host's models that read masks by an adapter: one file a backbone, listed here."""
from __future__ import annotations

import torch.nn as nn

from . import chroma, flux, flux2, qwen, sd3, zimage
from .base import EMBEDDING, MODULATION, Blocks, Family, Layer

FAMILIES = {family.key: family for family in (sd3.FAMILY, flux.FAMILY, flux2.FAMILY, chroma.FAMILY, qwen.FAMILY,
                                              zimage.FAMILY)}

__all__ = ["EMBEDDING", "FAMILIES", "LAYER_NAMES", "MODULATION", "TRAINED_LAYERS", "Blocks", "Family", "Layer",
           "find_family", "list_family_titles", "list_model_titles"]


def list_layer_names() -> tuple[str, ...]:
    """Of all families' layers, each once."""
    names: dict[str, None] = {}
    for family in FAMILIES.values():
        for blocks in family.blocks.values():
            names |= dict.fromkeys(blocks.layers)
    return tuple(names)


LAYER_NAMES = list_layer_names()
TRAINED_LAYERS = tuple(name for name in LAYER_NAMES if name != MODULATION)  # unless the settings name others


def find_family(network: nn.Module) -> Family | None:
    """The family of a host's network; None for one that reads no masks by an adapter."""
    return next((family for family in FAMILIES.values() if family.matches(network)), None)


def list_model_titles() -> str:
    """The models of all families, for the texts of nodes: 'A, B or C'."""
    *others, last = [family.title for family in FAMILIES.values()]
    return f"{', '.join(others)} or {last}" if others else last


def list_family_titles() -> str:
    """All families, for messages: their models and, in parentheses, their keys."""
    *others, last = [f"{family.title} (family {family.key})" for family in FAMILIES.values()]
    return f"{', '.join(others)} and {last}" if others else last
