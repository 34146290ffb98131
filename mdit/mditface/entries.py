"""What a run stores of a mask: the keys and values that the blocks read, in the form in which they read them, and what
they depend on (docs/design/mditface.md, sections 6.1, 7.4 and 8.1)."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from comfy.ldm.flux.math import apply_rope1

from . import local_window
from .cache import StaticEntry
from .reductions import Reduction
from .tokens import MaskTokens, find_flat_regions, merge_leaves

KeysAndValues = tuple[Tensor, Tensor]  # of one block, each (b, H, M, D)
RotationFunction = Callable[[Tensor], Tensor | None]  # of positions (M, 2); None for keys that are not rotated


def reduce_entry(kv: Iterable[KeysAndValues], tokens: MaskTokens, reduction: Reduction, radius: int,
                 compute_rotation: RotationFunction, eight_bit: bool = False) -> StaticEntry:
    """The entry of a mask's tokens: in strips with a `radius` above 0, otherwise merged where the reduction says so.

    kv: keys and values of each block. eight_bit: stores them as int8.
    """
    if radius:
        return make_window_entry(kv, tokens.grid, radius, eight_bit)
    if reduction.merge:
        return merge_entry(kv, tokens, compute_rotation, eight_bit)
    return StaticEntry(kv, None, eight_bit)


def merge_entry(kv: Iterable[KeysAndValues], tokens: MaskTokens, compute_rotation: RotationFunction, eight_bit: bool
                ) -> StaticEntry:
    """The keys and values of each flat region become one pair, with the bias log n.

    Keys that are rotated to different positions would partly cancel out in a mean. They are turned back first, and
    their mean is turned to the mean position. Everything is computed in float32 and rounded once.
    """
    leaves = find_flat_regions(tokens.classes, tokens.grid)  # (M,)
    if leaves.max() + 1 == len(leaves):  # nothing is flat: exact
        return StaticEntry(kv, None, eight_bit)
    positions = tokens.list_positions()
    turn = compute_rotation(positions)
    turn_to_mean = compute_rotation(merge_leaves(positions, leaves))

    def merge_keys(k: Tensor) -> Tensor:
        if turn is None:
            return merge_leaves(k, leaves).to(k)
        unturned = apply_rope1(k.float(), turn.transpose(-1, -2).contiguous())
        return apply_rope1(merge_leaves(unturned, leaves), turn_to_mean).to(k)  # (b, H, leaves, D)

    kv = [(merge_keys(k), merge_leaves(v, leaves).to(v)) for k, v in kv]
    bias = leaves.bincount().to(kv[0][0].device).log()[None]  # (1, leaves), float32
    return StaticEntry(kv, bias, eight_bit)


def make_window_entry(kv: Iterable[KeysAndValues], grid: tuple[int, int], radius: int, eight_bit: bool) -> StaticEntry:
    """The keys and values in strips, each (b, C * H, R, D)."""
    kv = [(local_window.cut_strips(k, grid, radius), local_window.cut_strips(v, grid, radius)) for k, v in kv]
    first_keys = kv[0][0]
    columns = local_window.count_tiles(grid)[1]
    bias = local_window.make_strip_bias(grid, radius, first_keys.shape[1] // columns, first_keys)
    return StaticEntry(kv, bias, eight_bit)


def make_key_bias(entry: StaticEntry, strength: float) -> Tensor | None:
    """log n of merged tokens plus log w of the strength, (1 or b, M)."""
    if strength == 1:
        return entry.bias
    if entry.bias is None:
        keys = entry.blocks[0][0]
        return torch.full((1, keys.shape[2]), math.log(strength), device=entry.device)
    return entry.bias + math.log(strength)
