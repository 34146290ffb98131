"""The key of a cache entry: everything that its keys and values depend on (docs/design/mditface.md, section 6.1)."""
from __future__ import annotations

import weakref
from collections.abc import Hashable
from types import MethodType
from typing import NamedTuple
from uuid import UUID

import torch

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class Identity:
    """Stands for an object in a key and does not keep it alive.

    Two identities are equal while their object lives. An identity of a dead object equals itself alone, so a new object
    at the same address is another one.
    """

    def __init__(self, x: object):
        self.ref = weakref.ref(x)
        self.hash = id(x)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        found = self.ref()
        return found is not None and isinstance(other, Identity) and other.ref() is found


def identify(x: object) -> Hashable:
    """What stands for any object in a key.

    Plain values stand for themselves, a method for its object and function. An object that allows no weak reference
    equals nothing, not even itself: its entries are never found again.
    """
    if isinstance(x, PLAIN):
        return type(x), x
    if isinstance(x, MethodType):
        return identify(x.__self__), identify(x.__func__)
    try:
        return Identity(x)
    except TypeError:
        return object()


class EntryInputs(NamedTuple):
    """What an entry depends on in addition to the model and the cache mode.

    digest: of the mask's tokens, or of those that an exemplar is compared and read by.
    device: where the entry is computed and read.
    reduction: a name of REDUCTIONS.
    rope: the host's rotary options as sorted pairs.
    prompt: digest of the prompt, for a reader that depends on it.
    """
    digest: Hashable
    device: torch.device
    reduction: str = "off"
    rope: tuple = ()
    prompt: Hashable = ()


class EntryKey(NamedTuple):
    """The key. Neither the model nor an object of its patches lives on in it.

    inputs: see EntryInputs.
    patches_uuid: the patcher's weights and weight patches.
    identity: see MaskReader.
    hooks: the hooks in force, each with its strength.
    injections: the patcher's injections, such as bypass LoRAs, which do not renew `patches_uuid`.
    objects: object patches below the diffusion model, which do not renew it either.
    mode: one of CACHE_MODES.
    dtype: the computation type.
    """
    inputs: EntryInputs
    patches_uuid: UUID
    identity: tuple
    hooks: tuple
    injections: tuple
    objects: tuple
    mode: str
    dtype: torch.dtype


def make_key(patcher, identity: tuple, inputs: EntryInputs, mode: str, dtype: torch.dtype) -> EntryKey:
    """The key for a model in its present state."""
    return EntryKey(inputs, patcher.patches_uuid, identity, list_hooks(patcher.current_hooks), list_injections(patcher),
                    list_objects(patcher), mode, dtype)


def list_hooks(group) -> tuple:
    """The hooks of a group of the host, or of None, each with its strength."""
    hooks = [] if group is None else group.hooks
    return tuple((identify(hook.hook_ref), hook.strength) for hook in hooks)


def list_injections(patcher) -> tuple:
    return tuple((name, *map(identify, injected)) for name, injected in patcher.injections.items())


def list_objects(patcher) -> tuple:
    patches = patcher.object_patches.items()
    return tuple((name, identify(x)) for name, x in patches if name.startswith("diffusion_model"))
