"""Masks on a network that PyTorch's compiler compiled (docs/design/adapters.md, section 2.2).

Compiled code is made for the form of the masks in its first call. What tells another form apart must be guarded.
"""
from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable

import torch.nn as nn

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..attention import MaskRows
from .streams import MaskStream

FORM_NUMBERS = itertools.count(64)  # from more than any ControlNet has residuals on
COMPILED_FORMS: dict[tuple[str, tuple[int, int]], int] = {}  # number of residuals, by form and their real numbers


def find_compiled_call(module: nn.Module) -> Callable | None:
    """What runs the compiled code of a module, of `torch.compile` or of its own method `compile`; None for others."""
    return module.forward if hasattr(module, "_orig_mod") else module._compiled_call_impl


def get_plain(network: nn.Module) -> nn.Module:
    """The network without the compiled code that another node may have put around it."""
    return getattr(network, "_orig_mod", network)


def is_compiled(network: nn.Module, transformer_options: dict) -> bool:
    """Whether another node compiled the network, or has it compiled by a wrapper."""
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return COMPILE_KEY in wrappers or find_compiled_call(network) is not None


def check_guards(block: nn.Module):
    """Raises ValueError for a block that was compiled alone without guards on the transformer options.

    Its code would run with and without a mask alike, and with the keys of another block.
    """
    call = find_compiled_call(block)
    if call is None:
        return
    hooks = getattr(inspect.getclosurevars(call).nonlocals.get("callback"), "hooks", None)
    if hooks is None or hooks.guard_filter_fn is not None:
        raise ValueError("model: another node compiles its blocks one by one without guards on the transformer options "
                         "(guard_filter_fn), so compiled code cannot tell masks apart: compile the whole model with "
                         "'TorchCompileModel' instead")


def check_compiled(stream: MaskStream):
    """Raises ValueError for a network whose compiled code would not see that a mask is another or gone."""
    if not stream.has_block_patches:
        raise ValueError(f"model: another node compiles it, and the compiled code of this class "
                         f"({type(stream.network).__name__}) cannot tell masks apart: remove that node")


def describe_form(rows: tuple[MaskRows, ...]) -> list:
    """What a compiled model's code depends on: rows, bias, and keys and values of the first block."""
    form = []
    for part in rows:
        first = () if part.kv is None else part.kv.blocks[0]
        tensors = [(*x.shape, x.dtype, x.device) for x in first]
        form.append((part.rows, part.bias is None, tensors))
    return form


def mark_form(control: dict | None, form: str) -> dict:
    """A ControlNet's residuals, followed by empty ones, whose number identifies this form of masks.

    The host's compile node sets no guards on the transformer options: code compiled without a mask would be called
    with one. The number of residuals is guarded, and the models skip residuals that are None.
    """
    control = control or {}
    residuals = {name: control.get(name) or [] for name in ("input", "output")}
    counts = tuple(map(len, residuals.values()))
    if (form, counts) not in COMPILED_FORMS:  # a form may get a number in two threads, and keeps the first
        COMPILED_FORMS.setdefault((form, counts), next(FORM_NUMBERS))
    total = COMPILED_FORMS[form, counts]
    padded = {name: [*x, *[None] * (total - len(x))] for name, x in residuals.items()}
    return {**control, **padded}
