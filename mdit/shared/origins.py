"""Which node's code stands in a model, for errors and reports."""
from __future__ import annotations

import re
from collections.abc import Iterable

import torch.nn as nn

PACK = re.compile(r"custom_nodes[/\\]([^/\\.]+)")


def name_origin(code: object) -> str:
    """A class or function in quotes, with the folder of custom nodes that it comes from."""
    name = getattr(code, "__name__", type(code).__name__)
    pack = PACK.search(getattr(code, "__module__", None) or "")
    return f"'{name}' of {pack[1]}" if pack else f"'{name}'"


def name_replacements(modules: Iterable[nn.Module]) -> list[str]:
    """What other nodes put in place of the modules' methods and classes."""
    names = []
    for module in modules:
        kind = type(module)
        if not kind.__module__.startswith("comfy."):
            names.append(name_origin(kind))
        names += [name_origin(value) for name, value in vars(module).items()
                  if callable(value) and callable(getattr(kind, name, None))]
    return list(dict.fromkeys(names))


def check_blocks(blocks: nn.ModuleList, depth: int):
    """Raises ValueError where another node put something else in place of a model's `depth` blocks."""
    if len(blocks) != depth:
        found = ", ".join(name_origin(type(block)) for block in blocks)
        raise ValueError(f"model: another node put {found} in place of its {depth} blocks, which this model cannot "
                         "follow (a first-block cache?): remove that node")
