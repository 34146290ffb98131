"""How a mask reaches the blocks: two wrappers around the host's sampling (spec section 6.2)."""
from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import logging
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.patcher_extension

from ..shared.conds import CarriedCond
from .attention import ExemplarKeys, MaskRows
from .cache import REPORT_KEY, RunReport, StaticEntry, StaticStore, timed
from .config import MaskLayout
from .entries import key_bias, model_state, reduce_entry
from .exemplar_branch import ExemplarTokens
from .mask import CONDITIONING_KEY, BoundExemplar, BoundMask, is_mask
from .reductions import REDUCTIONS
from .tokens import MaskTokens

OPTIONS_KEY = "mdit_cache"
CACHE_MODES = ("auto", "8-bit", "off")


class CacheOptions(NamedTuple):
    """`mode` is one of CACHE_MODES; with `offload` the entries stay in RAM and blocks fetch them one by one."""
    mode: str = "auto"
    offload: bool = False


class MaskCond(CarriedCond):
    """A condition's mask (BoundMask or None) on its way through the host's batching."""

    def size(self) -> list[int]:
        """Mask tokens count like as much latent in the host's estimate of memory, and those of an exemplar again."""
        return [0] if self.cond is None else [len(self.cond.uses()) * self.cond.latents[0], *self.cond.latents[1:]]


class Prompt(dict[str, Tensor]):
    """What of the prompt enters the mask stream of a model with `mask_vec` prompt_pooled.

    The tensors have the names of the host's model inputs, such as `y` (b, P) and `guidance` (b,); b = 1 where all
    rows agree.
    """

    def digest(self) -> bytes:
        h = hashlib.blake2b()
        for name, x in self.items():
            h.update(repr((name, x.shape, x.dtype)).encode())
            h.update(x.contiguous().view(torch.uint8).cpu().numpy())
        return h.digest()


class MaskReader:
    """What lets a model read masks: it binds them to each run and keeps their keys and values.

    A subclass says how a mask's tokens become keys and values and how these reach the model's blocks. `key` names the
    wrappers, and the masks meant for this reader alone in a conditioning; a mask under CONDITIONING_KEY is for all.
    `identity` is what the keys and values depend on beside the model, `prompted` whether they depend on the prompt.
    """
    key = CONDITIONING_KEY
    identity: tuple = ()
    prompted = False
    radius = 0

    def layout(self, model) -> MaskLayout:
        raise NotImplementedError

    def prompt_inputs(self, model) -> tuple[str, ...]:
        """Names of the model inputs that keys and values depend on, where they depend on the prompt."""
        raise NotImplementedError

    def static_path(self, model, tokens: MaskTokens, device: torch.device, dtype: torch.dtype, prompt: Prompt | None,
                    transformer_options: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each block's keys and values, (b, H, M, D)."""
        raise NotImplementedError

    def rotation(self, model, device: torch.device, transformer_options: dict, places: Tensor) -> Tensor | None:
        """The rotation (1, 1, M, D/2, 2, 2) of keys at places (M, 2); None where keys are not rotated."""
        raise NotImplementedError

    def exemplar_path(self, model, tokens: ExemplarTokens
                      ) -> tuple[tuple[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """What `ExemplarBranch.static_path` gives; for models whose layout says that they read exemplars."""
        raise NotImplementedError

    def call(self, executor, rows: tuple[MaskRows, ...], x: Tensor, *args, **kwargs) -> Tensor:
        """Calls the model, whose blocks shall read the masks."""
        raise NotImplementedError

    def additional_models(self) -> list:
        """Patchers to be loaded together with the model where it reads a mask."""
        return []

    def install(self, patcher) -> None:
        wrappers = comfy.patcher_extension.WrappersMP
        patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, self.key, self.bind)
        patcher.add_wrapper_with_key(wrappers.APPLY_MODEL, self.key, self.attach)

    def bind(self, executor, noise: Tensor, *args, **kwargs):
        """OUTER_SAMPLE: binds each condition's mask to this run and hands its memory holder to the host."""
        guider = executor.class_obj
        patcher, options = guider.model_patcher, guider.model_options["transformer_options"]
        conds = list(itertools.chain.from_iterable(guider.conds.values()))
        references = [cond.get(self.key) or cond.get(CONDITIONING_KEY) for cond in conds]
        if not any(references):
            return executor(noise, *args, **kwargs)
        report, layout = options.setdefault(REPORT_KEY, RunReport()), self.layout(patcher.model)
        if not layout.exemplar and any(reference.exemplar for reference in filter(None, references)):
            raise ValueError(f"model: {name_of(patcher)} has no branch that reads an exemplar (exemplar_blocks in its "
                             "configuration): take a model trained with one, or remove 'Apply MDiT Exemplar'")
        bound = {reference: BoundMask(reference, noise.shape, patcher.model, layout)
                 for reference in filter(None, references)}
        report.notes += dict.fromkeys(filter(None, (mask.note() for mask in bound.values())))
        for cond, reference in zip(conds, references):
            self.hand_over(cond, bound.get(reference), patcher, caches(options))
        with contextlib.ExitStack() as stack:
            if caches(options):
                uses = [bound[reference].uses() for reference in references if reference]
                self.reserve(stack, list(itertools.chain.from_iterable(uses)), patcher)
            out = executor(noise, *args, **kwargs)
        self.check_reads(report)
        return out

    def hand_over(self, cond: dict, mask: BoundMask | None, patcher, cached: bool):
        """Gives a condition its mask in the form that the host batches, and the host what is to be loaded for it."""
        cond["model_conds"] = {**cond["model_conds"], self.key: MaskCond(mask)}
        if mask is not None:
            kept = mask.uses() if cached else []
            holders = [use.store.patcher(patcher.load_device, patcher.offload_device) for use in kept]
            cond["additional_models"] = [*cond.get("additional_models", []), *self.additional_models(), *holders]

    def reserve(self, stack: contextlib.ExitStack, uses: list[BoundMask | BoundExemplar], patcher):
        """Keeps room for this run's entries: one for all equal uses of a mask or exemplar, or one for each use where
        the prompt makes them differ."""
        stores, dtype = collections.defaultdict(list), patcher.model.get_dtype_inference()
        for use in uses:
            stores[use.store].append(use)
        for store, uses in stores.items():
            different = {use.tokens(None)[1]: use for use in uses}
            present = {key[:3] for key in store.cache.entries}
            nbytes = sum(use.planned_bytes(dtype) for digest, use in different.items()
                         if (digest, patcher.patches_uuid, self.identity) not in present)
            stack.enter_context(store.reserved(len(uses if self.prompted else different), nbytes))

    def check_reads(self, report: RunReport):
        """Says so where another node kept the blocks from reading the masks."""
        read, expected = report.reads.get(self.key, (0, 0))
        if read == expected:
            return
        note = f"masks read in {read} of {expected} block calls: another node skips blocks or steps"
        if read == 0:
            note = ("no block read the mask: another node replaces the model's forward or its blocks without calling "
                    "what was there; remove it, or apply it before the adapter")
            logging.warning("MDiT: %s", note)
        report.notes.append(note)

    def attach(self, executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
               transformer_options={}, **kwargs):
        """APPLY_MODEL: turns the chunks' masks into the keys and values that each row of the batch reads."""
        chunks = kwargs.pop(self.key, None)
        args = (x, t, c_concat, c_crossattn, control, transformer_options)
        rows = self.mask_rows(executor.class_obj, chunks, x, t[0], kwargs, transformer_options) if chunks else ()
        return self.call(executor, rows, *args, **kwargs) if rows else executor(*args, **kwargs)

    def mask_rows(self, model, chunks: list[MaskCond], x: Tensor, sigma: Tensor, conds: dict, transformer_options: dict
                  ) -> tuple[MaskRows, ...]:
        """Runs of equal masks among the chunks, each of which takes x.shape[0] / len(chunks) rows. Empty without
        masks."""
        n = x.shape[0] // len(chunks)
        prompts = [self.prompt(model, conds, slice(i * n, (i + 1) * n)) for i in range(len(chunks))]
        rows, start = [], 0
        for (mask, area, _), run in itertools.groupby(
                zip(chunks, prompts), key=lambda pair: (pair[0].cond, pair[0].area, pair[1][1])):
            run = list(run)
            stop = start + n * len(run)
            if mask is not None and mask.reference.active(model.model_sampling, sigma):
                check_size(mask, area, x)
                entry = self.entry(model, mask, area, run[0][1], x.device, transformer_options)
                exemplar = self.exemplar_keys(model, mask, area, x.device, transformer_options)
                rows.append(MaskRows(slice(start, stop), entry, key_bias(entry, mask.reference.strength), exemplar))
            else:
                rows.append(MaskRows(slice(start, stop), None))
            start = stop
        return tuple(rows) if any(r.kv is not None for r in rows) else ()

    def prompt(self, model, conds: dict, rows: slice) -> tuple[Prompt | None, bytes]:
        """The prompt of some rows and its digest, where it matters."""
        if not self.prompted:
            return None, b""
        names = [name for name in self.prompt_inputs(model) if conds.get(name) is not None]
        prompt = Prompt({name: conds[name][rows] for name in names})
        if all((x == x[:1]).all() for x in prompt.values()):
            prompt = Prompt({name: x[:1] for name, x in prompt.items()})
        return prompt, prompt.digest()

    def entry(self, model, mask: BoundMask, area: tuple | None, prompt: tuple[Prompt | None, bytes],
              device: torch.device, transformer_options: dict) -> StaticEntry:
        options = transformer_options.get(OPTIONS_KEY, CacheOptions())
        tokens, digest = mask.tokens(area)
        reduction, dtype = mask.reference.mask.reduction, model.get_dtype_inference()

        def compute() -> StaticEntry:
            kv = self.static_path(model, tokens, device, dtype, prompt[0], transformer_options)
            rotation = partial(self.rotation, model, device, transformer_options)
            return reduce_entry(kv, tokens, REDUCTIONS[reduction], self.radius, rotation, options.mode == "8-bit")

        rope = tuple(sorted((transformer_options.get("rope_options") or {}).items()))
        return self.kept(model, mask.store, digest, (device, reduction, rope, prompt[1]), compute, transformer_options)

    def exemplar_keys(self, model, mask: BoundMask, area: tuple | None, device: torch.device,
                      transformer_options: dict) -> ExemplarKeys | None:
        """What the rows of a mask read of its exemplar; None where it has none."""
        if mask.exemplar is None:
            return None
        tokens, digest = mask.exemplar.tokens(area)
        options, dtype = transformer_options.get(OPTIONS_KEY, CacheOptions()), model.get_dtype_inference()

        def compute() -> StaticEntry:
            found, kv = self.exemplar_path(model, tokens.to(device, dtype))
            entry = StaticEntry(kv, None, options.mode == "8-bit")
            entry.blocks.append(found)
            return entry

        entry = self.kept(model, mask.exemplar.store, digest, (device,), compute, transformer_options)
        return ExemplarKeys(*entry[-1], entry, mask.reference.exemplar_strength)

    def kept(self, model, store: StaticStore, digest: Hashable, rest: tuple, compute: Callable[[], StaticEntry],
             transformer_options: dict) -> StaticEntry:
        """What `compute` makes, from the store if it is there. `digest` and `rest` are what it depends on beside the
        model and the options."""
        options = transformer_options.get(OPTIONS_KEY, CacheOptions())
        report = transformer_options.get(REPORT_KEY) or RunReport()
        if not caches(transformer_options):
            return timed(compute, report)
        patcher = model.current_patcher
        key = (digest, patcher.patches_uuid, self.identity, *model_state(patcher), options.mode,
               model.get_dtype_inference(), *rest)
        entry = store.get(key, compute, report)
        if options.offload:
            entry.store_on(patcher.offload_device)
        entry.resident = not options.offload
        return entry


class StandAloneReader(MaskReader):
    """Reads masks for a base model whose network takes `masks` (see MDiT.forward)."""

    def layout(self, model) -> MaskLayout:
        return model.diffusion_model.config.mask_layout

    def static_path(self, model, tokens, device, dtype, prompt, transformer_options):
        return model.diffusion_model.static_path(tokens.tokens.to(device, dtype), tokens.positions().to(device),
                                                 transformer_options)

    def rotation(self, model, device, transformer_options, places) -> Tensor | None:
        return model.diffusion_model.position(places.to(device), transformer_options)[1]

    def exemplar_path(self, model, tokens):
        return model.diffusion_model.exemplar.static_path(tokens)

    def call(self, executor, rows, *args, **kwargs) -> Tensor:
        return executor(*args, masks=rows, **kwargs)


def name_of(patcher) -> str:
    """The file that a MODEL was loaded from, where its loader left it, and its class."""
    kind, source = type(patcher.model).__name__, patcher.cached_patcher_init
    return f"'{Path(source[1][0]).name}' ({kind})" if source and isinstance(source[1][0], str) else f"this {kind}"


def reads_masks(patcher) -> bool:
    """Whether a MODEL reads the masks of its conditionings."""
    keys = patcher.wrappers.get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {})
    return any(is_mask(str(key)) for key in keys)


def caches(transformer_options: dict) -> bool:
    mode = transformer_options.get(OPTIONS_KEY, CacheOptions()).mode
    return mode != "off" and not torch.is_grad_enabled()


def check_size(mask: BoundMask, area: tuple | None, x: Tensor):
    expected = tuple(area[:2]) if area else tuple(mask.latents[-2:])
    if tuple(x.shape[-2:]) != expected:
        raise ValueError(f"another node changed the latent from {expected} to {tuple(x.shape[-2:])} inside the "
                         "model call (tiled sampling?): a mask cannot follow it; sample without that node")
