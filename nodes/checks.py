"""Checks of values that links bring past the ranges and lists of inputs."""
from __future__ import annotations

import math
from numbers import Real

from ..mdit.shared.text_files import shorten


def check_numbers(**values: float) -> None:
    """Raises ValueError, which names the input, for NaN, infinity and what is no number."""
    for name, value in values.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{name}: {shorten(value)} is no finite number: enter a number, or connect another node")
