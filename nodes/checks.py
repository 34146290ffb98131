"""Checks of values that links bring past the ranges and lists of inputs."""
from __future__ import annotations

import sys
from collections.abc import Iterable
from numbers import Real

import torch
from torch import Tensor

from ..mdit.shared.text_files import shorten


def check_numbers(**values: float) -> None:
    """Raises ValueError, which names the input, for NaN, infinity and what is no number."""
    for name, value in values.items():
        if not is_finite(value):
            raise ValueError(f"{name}: {shorten(value)} is no finite number: enter a number, or connect another node")


def is_finite(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    return isinstance(value, Real) and -sys.float_info.max <= value <= sys.float_info.max


def check_choices(choices: Iterable[str], **values: str) -> None:
    """Raises ValueError, which names the input, for a value that is not in its list."""
    known = list(choices)
    for name, value in values.items():
        if value not in known:
            raise ValueError(f"{name}: '{shorten(value)}' is not in its list: choose one of {', '.join(known)}")


def check_side(most: int, step: int, **values: int) -> None:
    """Raises ValueError, which names the input, for a side in pixels that is no whole number of steps."""
    check_numbers(**values)
    for name, value in values.items():
        if value not in range(0, most + 1, step):
            raise ValueError(f"{name}: {value:g} pixels: enter a multiple of {step} from 0 to {most}")


def check_batch(**images: Tensor) -> None:
    """Raises ValueError, which names the input, for images without a pixel, or with NaN or infinity."""
    for name, batch in images.items():
        if 0 in batch.shape:
            raise ValueError(f"{name}: the batch is empty, shape {tuple(batch.shape)}: connect at least one image")
        if not torch.stack(batch.aminmax()).isfinite().all():
            raise ValueError(f"{name}: it has NaN or infinite values: check the node that made it")
