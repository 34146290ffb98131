"""How the conditions of a run use masks: how many entries it needs at once, and how large they are
(docs/design/mditface.md, section 6.3)."""
from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

import comfy.samplers

from ..shared.conds import CarriedCond, cut_frames
from .cache import StaticMaskCache
from .keys import EntryKey, identify


class MaskUse(NamedTuple):
    """A mask as one condition of a run reads it.

    cond: the condition's mask. The conditions that the host adds share it with the condition that they copy.
    area: the region (h, w, y, x in latent cells), None for all.
    hooks: the condition's hooks with their keyframes, which put them in one state at a time.
    start, end: fractions of the schedule between which it is read.
    """
    cond: CarriedCond
    area: tuple | None
    hooks: tuple
    start: float
    end: float


class Need(NamedTuple):
    """An entry that a run needs: its bytes, and the fractions of the schedule between which it is read."""
    nbytes: int
    start: float
    end: float

    def is_read_at(self, moment: float) -> bool:
        return self.start <= moment <= self.end

    def join(self, other: Need) -> Need:
        """What both needs, which are of one entry, are together."""
        return Need(self.nbytes, min(self.start, other.start), max(self.end, other.end))


class Plan(NamedTuple):
    """What a run needs of one cache: the arguments of `StaticMaskCache.reserve`."""
    entries: int
    nbytes: int
    keys: list[EntryKey]


def list_uses(conds: dict[str, list[dict]], key: str, sides: tuple[int, ...], device: torch.device) -> list[MaskUse]:
    """How the conditions of a run, bound under `key`, read their masks on latents of these sides.

    The host resolves regions, and adds conditions for regions that the other half of guidance lacks, after it has
    loaded the models. Both happen here on copies, because the entries' bytes are announced before.
    """
    copies = {name: [*group] for name, group in conds.items()}
    for group in copies.values():
        comfy.samplers.resolve_areas_and_cond_masks_multidim(group, sides, device)
    for name, group in copies.items():
        for cond in group:
            for other in copies:
                if other != name:
                    comfy.samplers.create_cond_with_same_area_if_none(copies[other], cond)
    return list(find_uses(itertools.chain.from_iterable(copies.values()), key, sides))


def find_uses(conds: Iterable[dict], key: str, sides: tuple[int, ...]) -> Iterator[MaskUse]:
    """Leaves out masks that are never read, and regions outside of the latent, which the host refuses."""
    for cond in conds:
        carried = cond["model_conds"][key]
        if carried.cond is None or carried.cond.reference.strength == 0:
            continue
        area = clip_area(cond.get("area"), sides)
        start = max(cond.get("start_percent", 0.0), carried.cond.reference.start)
        end = min(cond.get("end_percent", 1.0), carried.cond.reference.end)
        if (area is None or min(area[:2]) > 0) and start <= end:
            yield MaskUse(carried, area, list_keyed_hooks(cond), start, end)


def list_keyed_hooks(cond: dict) -> tuple:
    """The hooks of a condition with their keyframes."""
    group = cond.get("hooks")
    hooks = [] if group is None else group.hooks
    return tuple((identify(hook.hook_ref), identify(hook.hook_keyframe)) for hook in hooks)


def clip_area(area: tuple | None, sides: tuple[int, ...]) -> tuple | None:
    """The part (h, w, y, x) of a region that lies in the latent of these sides, as the host cuts it."""
    if area is None:
        return None
    area = comfy.samplers.add_area_dims(list(area), len(sides))
    half = len(area) // 2
    lengths = area[:len(sides)]
    offsets = area[half:half + len(sides)]
    clipped = (min(side - offset, length) for side, length, offset in zip(sides, lengths, offsets))
    return cut_frames((*clipped, *offsets))


def plan_run(cache: StaticMaskCache, needs: dict[tuple, Need], state: tuple) -> Plan:
    """What a run needs of a cache at once, at the fullest moment of its schedule.

    needs: by digest, hooks and prompt of each. state: patches_uuid, identity, mode and type of the run's keys.
    """
    digests = {digest for digest, _, _ in needs}
    keys = [key for key in cache.entries if key.inputs.digest in digests
            and (key.patches_uuid, key.identity, key.mode, key.dtype) == state]
    missing = list_missing(needs, collections.Counter(key.inputs.digest for key in keys))
    moments = {need.start for need in needs.values()}
    entries = max(sum(need.is_read_at(moment) for need in needs.values()) for moment in moments)
    nbytes = max(sum(need.nbytes for need in missing if need.is_read_at(moment)) for moment in moments)
    return Plan(entries, nbytes, keys)


def list_missing(needs: dict[tuple, Need], present: collections.Counter) -> list[Need]:
    """The needs beyond the entries that are present, which are counted by digest."""
    missing = []
    for (digest, _, _), need in needs.items():
        if present[digest] > 0:
            present[digest] -= 1
        else:
            missing.append(need)
    return missing
