"""Beside a model with dynamic memory: what the host unloads of other models when a run has a mask.

The host's device is a pretended card of 1 MB that computes on the CPU.
"""
import pytest
import torch

import comfy.model_management
import comfy.model_patcher
from mditface.mdit.mditface import host
from mditface.mdit.mditface.reader import CacheOptions
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import TOLERANCE, masked, run
from mditface.tests.shared.reloading import OTHER, DynamicPatcher

CARD = 1_000_000
RESERVE = 1000


class Sized(torch.nn.Module):
    """Another model on the card."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(size, dtype=torch.uint8), requires_grad=False)


class OnDemand(DynamicPatcher):
    """Weights come and go as the card has room, so only what others demand is unloaded."""
    taken = 0

    def loaded_size(self):
        return self.model_size() - self.taken

    def partially_load(self, *args, **kwargs):
        return None

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        freed = min(memory_to_free, self.loaded_size())
        self.taken += freed
        return freed

    def detach(self, unpatch_all=True):
        if unpatch_all:
            self.taken = self.model_size()
        return self.model

    def loaded_ram_size(self):
        return 0


@pytest.fixture
def card(monkeypatch):
    management = comfy.model_management

    def get_free_memory(device=None, torch_free_too=False):
        free = CARD - sum(m.model_loaded_memory() for m in management.current_loaded_models)
        return (free, 0) if torch_free_too else free
    management.unload_all_models()
    for name, value in (("get_free_memory", get_free_memory), ("get_torch_device", lambda: OTHER),
                        ("minimum_inference_memory", lambda: RESERVE), ("extra_reserved_memory", lambda: 0)):
        monkeypatch.setattr(management, name, value)
    yield
    management.unload_all_models()


@pytest.fixture
def loaded(card, tmp_path, monkeypatch):
    """An MDiT whose model has dynamic memory."""
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", OnDemand)
    return host.load_mdit(tiny.write(tmp_path / "tiny.safetensors"))


def load_others(*sizes: int) -> list[OnDemand]:
    others = [OnDemand(Sized(size), OTHER, torch.device("cpu")) for size in sizes]
    comfy.model_management.load_models_gpu(others)
    return others


@pytest.mark.parametrize("size", [150_000, 212_000, 218_000])
def test_a_mask_takes_no_more_room_from_other_models_than_its_entries_need(loaded, size):
    texts = tiny.conditioning(loaded.clip, "man"), tiny.conditioning(loaded.clip, "")
    others = load_others(size, size)
    free = CARD - loaded.model.model_size() - loaded.clip.patcher.model_size() - 2 * size
    mask = tiny.mask()
    for seed in range(2):
        run(loaded.model, masked(texts[0], mask), texts[1], seed=seed)
    entries = mask.store.get_cache(OTHER).nbytes
    assert entries == 2 * tiny.CONFIG.depth * 16 * tiny.CONFIG.width * 4
    needed = 1.1 * entries + RESERVE  # as the host counts
    assert sum(other.taken for other in others) == pytest.approx(max(0, needed - free))
    assert mask.store.patchers[OTHER] in comfy.model_management.loaded_models()


def test_without_a_mask_nothing_is_unloaded(loaded):
    texts = tiny.conditioning(loaded.clip, "man"), tiny.conditioning(loaded.clip, "")
    others = load_others(300_000, 300_000)
    run(loaded.model, *texts)
    assert [other.taken for other in others] == [0, 0]


def test_the_result_is_exact(loaded):
    texts = tiny.conditioning(loaded.clip, "man"), tiny.conditioning(loaded.clip, "")
    expected, _ = run(loaded.model, masked(texts[0], tiny.mask()), texts[1], CacheOptions("off"))
    torch.testing.assert_close(run(loaded.model, masked(texts[0], tiny.mask()), texts[1])[0], expected, **TOLERANCE)
