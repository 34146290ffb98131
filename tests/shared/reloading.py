"""Whether the host can load a part of a file again, for the tests of every loader."""
from __future__ import annotations

import pytest
import torch

import comfy.model_patcher

OTHER = torch.device("cpu", 0)  # equals no device of the host's, and computes like the CPU


class DynamicPatcher(comfy.model_patcher.ModelPatcher):
    """A patcher as on a host with dynamic memory, which needs a card."""

    def is_dynamic(self) -> bool:
        return True

    def get_non_dynamic_delegate(self) -> comfy.model_patcher.ModelPatcher:
        return self.clone(disable_dynamic=True)


@pytest.fixture(scope="module")
def dynamic_memory():
    """All loaders of the host and of this pack make dynamic patchers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.model_patcher, "CoreModelPatcher", DynamicPatcher)
        yield


def check_copies(part, absent: str = "nothing") -> None:
    """What the host does for hooks and compiled models, and for another device: each copy has its own weights.

    absent: in the names of weights that the file lacks.
    """
    patcher = getattr(part, "patcher", part)
    moved = patcher.deepclone_multigpu(new_load_device=OTHER)
    assert moved.load_device == OTHER
    copies = [moved]
    if patcher.is_dynamic():  # the host keeps a pixel-space VAE out of it
        copies.append(patcher.clone(disable_dynamic=True))
        assert [copy.is_dynamic() for copy in copies] == [True, False]
    for copy in copies:
        assert copy.model is not patcher.model and type(copy.model) is type(patcher.model)
        weights = copy.model.state_dict()
        for name, weight in patcher.model.state_dict().items():
            if absent in name:
                continue
            torch.testing.assert_close(weights[name].float(), weight.float(), rtol=0, atol=1e-3)  # the host's own types
            assert weight.numel() == 1 or weights[name].data_ptr() != weight.data_ptr(), name
        assert weights.keys() == patcher.model.state_dict().keys()
