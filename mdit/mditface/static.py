"""How a mask reaches the blocks: two wrappers around the host's sampling (spec section 6.2)."""
from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.conds
import comfy.patcher_extension

from .cache import REPORT_KEY, RunReport, StaticEntry, timed
from .layers import MaskRows
from .mask import CONDITIONING_KEY, BoundMask, MaskReference
from .tokens import flat_regions, merge_leaves

OPTIONS_KEY = "mdit_cache"
CACHE_MODES = ("auto", "8-bit", "off")


class CacheOptions(NamedTuple):
    """`mode` is one of CACHE_MODES; with `offload` the entries stay in RAM and blocks fetch them one by one."""
    mode: str = "auto"
    offload: bool = False


class MaskCond(comfy.conds.CONDConstant):
    """A condition's mask (BoundMask or None) on its way through the host's batching: never keeps halves apart."""

    def __init__(self, cond: BoundMask | None, area: tuple | None = None):
        super().__init__(cond)
        self.area = area

    def process_cond(self, batch_size, area=None, **kwargs) -> MaskCond:
        return MaskCond(self.cond, None if area is None else tuple(area))

    def can_concat(self, other) -> bool:
        return isinstance(other, MaskCond)

    def concat(self, others) -> list[MaskCond]:
        return [self, *others]

    def size(self) -> list[int]:
        """Mask tokens count like as much latent in the host's estimate of memory."""
        return [0] if self.cond is None else list(self.cond.latents)


def install(patcher) -> None:
    """Adds the wrappers to a model patcher whose base model accepts `masks` (see MDiT.forward)."""
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, CONDITIONING_KEY, bind_masks)
    patcher.add_wrapper_with_key(wrappers.APPLY_MODEL, CONDITIONING_KEY, attach_masks)


def bind_masks(executor, noise: Tensor, *args, **kwargs):
    """OUTER_SAMPLE: binds each condition's mask to this run and hands its memory holder to the host."""
    guider = executor.class_obj
    patcher = guider.model_patcher
    options = guider.model_options["transformer_options"]
    report = options.setdefault(REPORT_KEY, RunReport())
    bound: dict[MaskReference, BoundMask] = {}
    try:
        for cond in itertools.chain.from_iterable(guider.conds.values()):
            reference = cond.get(CONDITIONING_KEY)
            if reference is None:
                continue
            if reference not in bound:
                bound[reference] = BoundMask(reference, noise.shape, patcher.model)
            mask = cond[CONDITIONING_KEY] = bound[reference]
            if caches(options):
                cond["additional_models"] = [*cond.get("additional_models", []), holder(mask, patcher)]
        report.notes += dict.fromkeys(filter(None, (mask.note() for mask in bound.values())))
        return executor(noise, *args, **kwargs)
    finally:
        for reference in bound:
            reference.mask.store.plan(0)


def caches(transformer_options: dict) -> bool:
    mode = transformer_options.get(OPTIONS_KEY, CacheOptions()).mode
    return mode != "off" and not torch.is_grad_enabled()


def holder(mask: BoundMask, patcher):
    store = mask.reference.mask.store
    digest = mask.tokens(None)[1]
    if not any(key[0] == digest and key[1] == patcher.patches_uuid for key in store.cache.entries):
        store.plan(mask.planned_bytes(patcher.model.get_dtype_inference()))
    return store.patcher(patcher.load_device, patcher.offload_device)


def attach_masks(executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None, transformer_options={},
                 **kwargs):
    """APPLY_MODEL: turns the chunks' masks into the keys and values that each row of the batch reads."""
    chunks = kwargs.pop(CONDITIONING_KEY, None)
    if chunks:
        kwargs["masks"] = mask_rows(executor.class_obj, chunks, x, t[0], transformer_options)
    return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def mask_rows(model, chunks: list[MaskCond], x: Tensor, sigma: Tensor, transformer_options: dict
              ) -> tuple[MaskRows, ...]:
    """Runs of equal masks among the chunks, each of which takes x.shape[0] / len(chunks) rows. Empty without masks."""
    n = x.shape[0] // len(chunks)
    rows, start = [], 0
    for (mask, area), run in itertools.groupby(chunks, key=lambda chunk: (chunk.cond, chunk.area)):
        stop = start + n * len(list(run))
        if mask is not None and mask.reference.active(model.model_sampling, sigma):
            expected = tuple(area[:2]) if area else tuple(mask.latents[-2:])
            if tuple(x.shape[-2:]) != expected:
                raise ValueError(f"another node changed the latent from {expected} to {tuple(x.shape[-2:])} inside the "
                                 "model call (tiled sampling?): a mask cannot follow it; sample without that node")
            entry = static_entry(model, mask, area, x.device, transformer_options)
            rows.append(MaskRows(slice(start, stop), entry, key_bias(entry, mask.reference.strength)))
        else:
            rows.append(MaskRows(slice(start, stop), None))
        start = stop
    return tuple(rows) if any(r.kv is not None for r in rows) else ()


def key_bias(entry: StaticEntry, strength: float) -> Tensor | None:
    """log n of merged tokens plus log w of the strength (spec sections 5.3 and 8.1), (1 or b, M)."""
    if strength == 1:
        return entry.bias
    if entry.bias is None:
        return entry[0][0].new_full((1, entry[0][0].shape[2]), math.log(strength))
    return entry.bias + math.log(strength)


def static_entry(model, mask: BoundMask, area: tuple | None, device: torch.device, transformer_options: dict
                 ) -> StaticEntry:
    options = transformer_options.get(OPTIONS_KEY, CacheOptions())
    report = transformer_options.get(REPORT_KEY) or RunReport()
    reduction = mask.reference.mask.reduction
    tokens, digest = mask.tokens(area)
    dtype = model.get_dtype_inference()

    def compute() -> StaticEntry:
        kv = model.diffusion_model.static_path(tokens.tokens.to(device, dtype), *tokens.grid, tokens.stride,
                                               transformer_options)
        if reduction != "merge":
            return StaticEntry(kv, None, options.mode == "8-bit")
        leaves = flat_regions(tokens.classes, *tokens.grid)
        bias = leaves.bincount().to(device, dtype).log()[None]  # (1, leaves)
        return StaticEntry(((merge_leaves(k, leaves), merge_leaves(v, leaves)) for k, v in kv), bias,
                           options.mode == "8-bit")

    if not caches(transformer_options):
        return timed(compute, report)
    patcher = model.current_patcher
    key = (digest, patcher.patches_uuid, *model_state(patcher), reduction, options.mode, dtype, device,
           tuple(sorted((transformer_options.get("rope_options") or {}).items())))
    entry = mask.reference.mask.store.get(key, compute, report)
    if options.offload:
        entry.store_on(patcher.offload_device)
    entry.resident = not options.offload
    return entry


def model_state(patcher) -> tuple:
    """What changes the weights without changing `patches_uuid`. The key holds the objects, so ids stay unique."""
    hooks = patcher.current_hooks.hooks if patcher.current_hooks is not None else []
    objects = [item for item in patcher.object_patches.items() if item[0].startswith("diffusion_model")]
    return (tuple((hook.hook_ref, hook.strength) for hook in hooks),
            tuple((name, *injections) for name, injections in patcher.injections.items()), tuple(objects))
