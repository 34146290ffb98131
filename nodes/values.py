"""Checks of what reaches a node: links and other clients bring any value past its widgets and sockets."""
from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import torch

import comfy.model_patcher
from comfy_api.latest import io

from ..mdit.dynast.host import PatchedDynaST
from ..mdit.interactdiffusion.interactions import Interaction
from ..mdit.interactdiffusion.weights import InteractionWeights
from ..mdit.mditface.adapter.terms import Adapter
from ..mdit.mditface.mask import MaskSource
from ..mdit.parsing.host import PatchedParser
from ..mdit.shared.text_files import shorten


def check_values(kind: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, which compares each value with its input before it runs.

    It then raises ValueError, which names the input.
    """
    schema = kind.GET_SCHEMA()
    inputs = {one.id: one for one in schema.inputs}

    def execute(cls, **values):
        check_missing(inputs.values(), values)
        for name, value in values.items():
            for one in (value if schema.is_input_list else [value]):
                check_value(inputs[name], name, one)
        return kind.execute.__func__(cls, **values)
    return type(kind.__name__, (kind,), {"execute": classmethod(execute), "__module__": kind.__module__})


def check_missing(inputs: Iterable[io.Input], values: dict[str, Any]) -> None:
    """Raises ValueError, which names the input, for one that the host left out, as a choice that is not in its list."""
    for own in inputs:
        if own.id not in values and not own.optional and getattr(own, "default", None) is None:
            raise ValueError(f"{own.id}: it is missing, or not in its list: give a value, or connect a node")


def check_value(own: io.Input, name: str, value: Any) -> None:
    """Raises ValueError, which names the input, for a value that is none of its types, or out of its range."""
    kind = own.get_io_type()
    may_lack = own.lazy or kind in MAY_LACK or own.optional and not isinstance(own, io.WidgetInput)
    if value is None and may_lack:  # lazy: the node did not ask for it
        return
    if value is None and kind in LOADERS:
        raise ValueError(f"{name}: the loaded file has no {KINDS[kind][1].split(' ', 1)[1]}: connect {LOADERS[kind]}")
    if isinstance(own, io.Autogrow.Input):
        check_grown(own, name, value)
    elif isinstance(own, io.DynamicCombo.Input):
        check_option(own, name, value)
    elif isinstance(own, io.Combo.Input):
        check_listed(own, name, value)
    else:
        kinds = kind.split(",")
        known = [KINDS[kind] for kind in kinds if kind in KINDS]
        if len(known) == len(kinds) and not any(is_kind(value) for is_kind, _ in known):
            nouns = " or ".join(noun for _, noun in known)
            raise ValueError(f"{name}: {describe(value)} is not {nouns}: connect another node")
        check_content(own, name, value)


def check_grown(own: io.Autogrow.Input, name: str, values: Any) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{name}: {describe(values)} is not a group of inputs: connect its slots")
    for slot, value in values.items():
        if value is not None:  # as the host gives for a slot that is free
            check_value(own.template.input, f"{name}.{slot}", value)


def check_option(own: io.DynamicCombo.Input, name: str, values: Any) -> None:
    """Checks a choice and the inputs that it brings."""
    options = {option.key: option.inputs for option in own.options}
    key = values.get(own.id) if isinstance(values, dict) else None
    if not isinstance(key, str) or key not in options:
        raise ValueError(f"{name}: '{shorten(key)}' is not in its list: choose one of {', '.join(options)}")
    check_missing(options[key], values)
    for one in options[key]:
        if one.id in values:
            check_value(one, f"{name}.{one.id}", values[one.id])


def check_listed(own: io.Combo.Input, name: str, value: Any) -> None:
    """Files are left to the node, which says where it looked, and so are parts of the face, which have two names."""
    if name in FILES or name in PARTS and isinstance(value, str):
        return
    if not isinstance(value, str) or value not in own.options:
        known = shorten(", ".join(own.options), MOST_LISTED)
        raise ValueError(f"{name}: '{shorten(value)}' is not in its list: choose one of {known}")


def check_content(own: io.Input, name: str, value: Any) -> None:
    """Ranges of numbers, batches of images and letters of texts."""
    if isinstance(value, torch.Tensor):
        check_batch(name, value)
    elif isinstance(value, str):
        check_letters(name, value)
    elif isinstance(own, (io.Int.Input, io.Float.Input)):
        least = -math.inf if own.min is None else own.min
        most = math.inf if own.max is None else own.max
        if not least <= value <= most:
            raise ValueError(f"{name}: {shorten(value)} is out of range: enter a number from {least} to {most}")


def check_batch(name: str, batch: torch.Tensor) -> None:
    if 0 in batch.shape:
        raise ValueError(f"{name}: the batch is empty, shape {tuple(batch.shape)}: connect at least one image")
    if not torch.stack(batch.aminmax()).isfinite().all():
        raise ValueError(f"{name}: it has NaN or infinite values: check the node that made it")


def check_letters(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: the text holds half of a letter at place {error.start}: type it again") from None


def describe(value: Any) -> str:
    """A value in an error."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    return f"'{shorten(value)}' ({type(value).__name__})"


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    return isinstance(value, Real) and -sys.float_info.max <= value <= sys.float_info.max


def is_tensor(value: Any) -> bool:
    """Whether it holds numbers that a node can read."""
    return (isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type != "meta"
            and value.is_floating_point())


def is_image(value: Any) -> bool:
    return is_tensor(value) and value.ndim == 4 and value.shape[-1] in (3, 4)


def is_mask(value: Any) -> bool:
    return is_tensor(value) and value.ndim in (2, 3, 4)


def is_latent(value: Any) -> bool:
    return isinstance(value, dict) and is_tensor(value.get("samples")) and value["samples"].ndim in (4, 5)


def is_conditioning(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_condition, value))


def is_condition(value: Any) -> bool:
    return (isinstance(value, (list, tuple)) and len(value) > 1 and is_tensor(value[0]) and value[0].ndim > 1
            and isinstance(value[1], dict))


def is_interactions(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, Interaction) for one in value)


def has(*methods: str) -> Callable[[Any], bool]:
    """Whether an object, which may be of another pack's class, can do what is asked of it."""
    return lambda value: not isinstance(value, (str, bytes, type)) and all(
        callable(getattr(value, method, None)) for method in methods)


def is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


FILES = ("adapter_name", "clip_name", "face", "gate_name", "lora_name", "model_name", "parser_name", "vae_name",
         "weights_name")
PARTS = ("class_name", "operation.by")
MAY_LACK = ("CLIP", "FACE_DIFFUSER_SUBJECT")  # a file may have none, and the node says which one has it
LOADERS = {"MODEL": "'Load Checkpoint' or another loader of a model", "VAE": "'Load VAE'"}
MOST_LISTED = 400  # letters of a list in an error
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # by the type of a socket: what it takes, in code and in words
    "INT": (lambda value: isinstance(value, Integral), "a whole number"),
    "FLOAT": (is_finite, "a finite number"),
    "BOOLEAN": (is_a(bool), "true or false"),
    "STRING": (is_a(str), "a text"),
    "IMAGE": (is_image, "an image of shape (batch, height, width, 3)"),
    "MASK": (is_mask, "a mask of shape (batch, height, width)"),
    "LATENT": (is_latent, "a latent"),
    "CONDITIONING": (is_conditioning, "a conditioning"),
    "MODEL": (is_a(comfy.model_patcher.ModelPatcher), "a model"),
    "CLIP": (has("tokenize", "encode_from_tokens_scheduled"), "a text encoder"),
    "VAE": (has("encode"), "a VAE"),
    "MDIT_MASK": (is_a(MaskSource), "an MDiT mask"),
    "MDIT_ADAPTER": (is_a(Adapter), "an adapter"),
    "MDIT_FACE_PARSER": (is_a(PatchedParser), "a face parser"),
    "MDIT_INTERACTIONS": (is_interactions, "interactions"),
    "MDIT_INTERACTION_WEIGHTS": (is_a(InteractionWeights), "weights of 'Load InteractDiffusion'"),
    "FACE_DIFFUSER_SUBJECT": (has("encode", "fuse"), "an image encoder of 'Load Face-diffuser'"),
    "DYNAST_MODEL": (is_a(PatchedDynaST), "a model of 'Load DynaST'"),
}
