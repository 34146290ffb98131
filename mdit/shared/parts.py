"""The parts of a model file, which the host can load again: for another device, or without dynamic memory."""
from __future__ import annotations

from collections.abc import Callable

import comfy.model_patcher


def load_parts(path: str, read: Callable[[str], object], *builders: Callable) -> list:
    """What each builder makes of the file's content: a MODEL, CLIP or VAE; None where the file holds none.

    A builder takes the content and `disable_dynamic`, which is false if it is left out.
    """
    content = read(path)
    parts = [build(content) for build in builders]
    for part, build in zip(parts, builders):
        if part is not None:
            get_patcher(part).cached_patcher_init = (reload_part, (path, read, build))
    return parts


def reload_part(path: str, read: Callable[[str], object], build: Callable, disable_dynamic: bool = False
                ) -> comfy.model_patcher.ModelPatcher:
    """The patcher of a part with weights of its own."""
    return get_patcher(build(read(path), disable_dynamic=disable_dynamic))


def get_patcher(part) -> comfy.model_patcher.ModelPatcher:
    return getattr(part, "patcher", part)
