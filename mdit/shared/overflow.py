"""Which layer of a network makes numbers that are not finite."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def refuse_overflow(network: nn.Module) -> Iterator[None]:
    """Within it, the first layer whose output is not finite raises ValueError, which names the layer.

    It reads each output, which takes time on a card: use it where a run is known to fail.
    """
    hooks = []
    for name, layer in network.named_modules():
        hooks.append(layer.register_forward_hook(partial(check_output, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_output(name: str, layer: nn.Module, inputs: tuple, output: Any) -> None:
    for x in output if isinstance(output, (tuple, list)) else [output]:
        if isinstance(x, torch.Tensor) and not x.isfinite().all():
            raise ValueError(f"model: its layer '{name}' makes NaN or infinite numbers in {x.dtype}: choose bf16 or "
                             "fp32 at the loader's 'weight_dtype', and look at the LoRAs and patches of the model")
