"""The parts of a model file, which the host can load again: for another device, or without dynamic memory."""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn as nn

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


class DeviceCopies:
    """A patcher of this pack that runs beside a MODEL, and its copies where a MODEL computes on other devices."""

    def __init__(self, patcher: comfy.model_patcher.ModelPatcher):
        self.patcher = patcher
        self.others: dict[torch.device, comfy.model_patcher.ModelPatcher] = {}

    def list_for(self, model: comfy.model_patcher.ModelPatcher) -> list[comfy.model_patcher.ModelPatcher]:
        """The patchers that a run of a MODEL needs, one for each device of the host's multi-GPU."""
        models = [model, *model.get_additional_models_with_key("multigpu")]
        return list(dict.fromkeys(self.load(each.load_device) for each in models))

    def load(self, device: torch.device) -> comfy.model_patcher.ModelPatcher:
        """The patcher for a device. On the CPU the weights of any device are read in place."""
        own = self.patcher.load_device, torch.device("cpu")
        if device in own or self.patcher.cached_patcher_init is None:
            return self.patcher
        if device not in self.others:
            self.others[device] = self.patcher.deepclone_multigpu(new_load_device=device)
        return self.others[device]

    def find(self, model: comfy.model_patcher.ModelPatcher | None) -> nn.Module:
        """The weights for the device of a MODEL; without a MODEL those that were loaded first."""
        return self.patcher.model if model is None else self.others.get(model.load_device, self.patcher).model
