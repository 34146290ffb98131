"""The host as it is on a machine with cards: its own memory management on a pretended driver."""
from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import torch

import comfy.model_management as management
from comfy.cli_args import args
from comfy.ldm.modules import attention

from . import kernels
from .card import Card, CardGenerator, name_card

MEMORY = 8 * 2 ** 30


class Stream:
    """A queue of a card's work. On the pretended card work is done at once, in the order of the program."""

    def __init__(self, device=None, priority=0):
        self.device = device

    def wait_stream(self, other): ...

    def synchronize(self): ...


class Driver:
    """What torch.cuda answers."""

    def __init__(self, capability: tuple[int, int], cards: int):
        self.capability = capability
        self.cards = cards
        self.current = 0
        self.streams = [Stream(number) for number in range(cards)]

    def functions(self) -> dict:
        return {
            "_lazy_init": lambda: None,
            "is_initialized": lambda: True,
            "is_available": lambda: True,
            "device_count": lambda: self.cards,
            "current_device": lambda: self.current,
            "set_device": self.set_device,
            "get_device_capability": lambda device=None: self.capability,
            "get_device_name": lambda device=None: "pretended",
            "get_device_properties": lambda device=None: SimpleNamespace(
                major=self.capability[0], minor=self.capability[1], name="pretended", total_memory=MEMORY),
            "mem_get_info": lambda device=None: (MEMORY, MEMORY),
            "memory_stats": lambda device=None: {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0},
            "is_bf16_supported": lambda including_emulation=True: self.capability >= (8, 0) or including_emulation,
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
            "ipc_collect": lambda: None,
            "is_current_stream_capturing": lambda: False,
            "Stream": Stream,
            "current_stream": lambda device=None: self.streams[self.current],
            "stream": lambda stream: contextlib.nullcontext(),
        }

    def set_device(self, device):
        self.current = torch.device(device).index if not isinstance(device, int) else device


@contextlib.contextmanager
def pretend_cards(capability: tuple[int, int] = (9, 0), cards: int = 1, streams: int = 2, gpu_only: bool = False,
                  fp16_intermediates: bool = False, novram: bool = False, force_fp32: bool = False) -> Iterator[Card]:
    """The host with pretended cards, started with these flags. Models of the block are unloaded at its end."""
    driver = Driver(capability, cards)
    state = "HIGH_VRAM" if gpu_only else "NO_VRAM" if novram else "NORMAL_VRAM"
    state = getattr(management.VRAMState, state)
    with contextlib.ExitStack() as stack:
        stack.callback(management.cleanup_models)  # those that died inside and were listed before
        for name, function in driver.functions().items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, function in kernels.make_questions(capability).items():
            stack.enter_context(mock.patch.object(torch.backends.cuda, name, function))
        for name, value in dict(cpu_state=management.CPUState.GPU, vram_state=state, NUM_STREAMS=streams,
                                ENABLE_PYTORCH_ATTENTION=True, STREAMS={}, stream_counters={}, STREAM_CAST_BUFFERS={},
                                current_loaded_models=[], LORA_COMPUTE_DTYPES={}, FORCE_FP32=force_fp32).items():
            stack.enter_context(mock.patch.object(management, name, value))
        for name, value in dict(cpu=False, gpu_only=gpu_only, fp16_intermediates=fp16_intermediates).items():
            stack.enter_context(mock.patch.object(args, name, value))
        replace_attention(stack)
        stack.enter_context(mock.patch.object(torch.Tensor, "to", copy_to))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", stay_pageable))
        stack.enter_context(mock.patch.object(torch, "Generator", make_generator))
        stack.enter_context(mock.patch.object(torch, "tensor", make_tensor))
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a layer's `to` makes new parameters
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) copies from the CPU
        card = stack.enter_context(Card(capability))
        stack.callback(gc.collect)  # a patcher that dies moves its tensors, which the card alone can read
        yield card


def stay_pageable(tensor: torch.Tensor, device=None) -> torch.Tensor:
    """Only a driver can pin memory."""
    return tensor


def make_generator(device="cpu", _generator=torch.Generator) -> torch.Generator:
    return CardGenerator(device) if torch.device(device).type == "cuda" else _generator(device)


def make_tensor(data, *, _tensor=torch.tensor, device=None, **kwargs) -> torch.Tensor:
    """`torch.tensor`, which gives a card its number without asking the driver."""
    return _tensor(data, device=None if device is None else name_card(device), **kwargs)


def copy_to(x: torch.Tensor, *args, _to=torch.Tensor.to, **kwargs) -> torch.Tensor:
    """`x.to(...)` of a tensor of the CPU, which gives a card its number without asking the driver."""
    if args and isinstance(args[0], (str, torch.device)):
        args = (name_card(args[0]), *args[1:])
    return _to(x, *args, **kwargs)


def replace_attention(stack: contextlib.ExitStack):
    """Every module reads the attention that the host takes on a card, under the name by which it imported it."""
    for name in ("optimized_attention", "optimized_attention_masked"):
        replaced = getattr(attention, name)
        for module in list(sys.modules.values()):
            if vars(module).get(name) is replaced:
                stack.enter_context(mock.patch.object(module, name, attention.attention_pytorch))
