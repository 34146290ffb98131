"""How a mask reaches the blocks: wrappers around the host's sampling (docs/design/mditface.md, section 6.2)."""
from __future__ import annotations

import collections
import contextlib
import itertools
import logging
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_management
import comfy.patcher_extension

from ..shared.conds import UNKNOWN, CarriedCond, RowCond, check_additions, find_places
from ..shared.masks import BATCH_KEY, CONDITIONING_KEY, REPORT_KEY, is_mask
from .additions import find_foreign_module, note_patches
from .attention import ExemplarKeys, MaskRows, SelectedRows
from .cache import CachePatcher, RunReport, StaticEntry, StaticStore, compute_and_count
from .config import MaskLayout
from .entries import make_key_bias, reduce_entry
from .exemplar_branch import ExemplarTokens
from .keys import EntryInputs, make_key
from .mask import BoundMask, MaskReference
from .prompt import Prompt, mark_prompt, read_prompt
from .reductions import REDUCTIONS, check_window
from .tokens import MaskTokens
from .uses import MaskUse, Need, list_uses, plan_run

OPTIONS_KEY = "mdit_cache"
CACHE_MODES = ("auto", "8-bit", "off")


class CacheOptions(NamedTuple):
    """How a run stores its entries.

    mode: one of CACHE_MODES.
    offload: whether entries stay in RAM and blocks fetch them one by one.
    """
    mode: str = "auto"
    offload: bool = False


class MaskCond(CarriedCond):
    """A condition's mask (BoundMask or None) on its way through the host's batching."""

    def size(self) -> list[int]:
        """For the host's estimate of memory, mask tokens count like as many image tokens, an exemplar's again."""
        if self.cond is None:
            return [0]
        batch, *latent = self.cond.latents
        return [len(self.cond.list_cached_parts()) * batch, *latent]


class MaskReader:
    """What lets a model read masks: it binds them to each run and stores their keys and values.

    A subclass says how a mask's tokens become keys and values, and how these reach the model's blocks.

    key: names the wrappers, and the masks of a conditioning that are for this reader alone. A mask under
        CONDITIONING_KEY is for all readers.
    identity: what the keys and values depend on in addition to the model.
    prompted: whether they depend on the prompt.
    radius: see ReadPattern.
    """
    key = CONDITIONING_KEY
    identity: tuple = ()
    prompted = False
    radius = 0

    def get_layout(self, model) -> MaskLayout:
        """How the model's mask tokens are made."""
        raise NotImplementedError

    def run_static_path(self, model, tokens: MaskTokens, device: torch.device, dtype: torch.dtype,
                        prompt: Prompt | None, transformer_options: dict) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each block's keys and values, (b, H, M, D)."""
        raise NotImplementedError

    def compute_rotation(self, model, device: torch.device, transformer_options: dict, positions: Tensor
                         ) -> Tensor | None:
        """The rotation (1, 1, M, D/2, 2, 2) of keys at positions (M, 2); None where keys are not rotated."""
        raise NotImplementedError

    def list_prompt_inputs(self, model) -> tuple[str, ...]:
        """The host's names of the model inputs that the keys and values of a `prompted` reader depend on."""
        raise NotImplementedError

    def run_exemplar_path(self, model, tokens: ExemplarTokens
                          ) -> tuple[tuple[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]:
        """The result of `ExemplarBranch.run_static_path`, for models whose layout says that they read exemplars."""
        raise NotImplementedError

    def call_model(self, executor, mask_rows: tuple[MaskRows, ...], x: Tensor, *args, **kwargs) -> Tensor:
        """Calls the model so that its blocks read the masks."""
        raise NotImplementedError

    def list_additional_models(self, patcher) -> list:
        """Patchers that are loaded together with a MODEL that reads a mask."""
        return []

    def install(self, patcher) -> None:
        wrappers = comfy.patcher_extension.WrappersMP
        patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, self.key, self.bind)
        patcher.add_wrapper_with_key(wrappers.APPLY_MODEL, self.key, self.attach)
        if self.prompted:
            patcher.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, self.key, self.mark_prompts)

    def bind(self, executor, noise: Tensor, *args, **kwargs):
        """OUTER_SAMPLE: binds each condition's mask to this run and hands its memory holder to the host."""
        guider = executor.class_obj
        patcher = guider.model_patcher
        options = guider.model_options["transformer_options"]
        conds = list(itertools.chain.from_iterable(guider.conds.values()))
        references = [cond.get(self.key) or cond.get(CONDITIONING_KEY) for cond in conds]
        if not any(references):
            return executor(noise, *args, **kwargs)
        layout = self.get_layout(patcher.model)
        if not layout.exemplar and any(reference.exemplar for reference in references if reference):
            raise ValueError(f"model: {name_model(patcher)} has no branch that reads an exemplar (exemplar_blocks in "
                             "its configuration): load a model with such a branch, or remove 'Apply Exemplar (MDiT)'")
        for reference in filter(None, references):
            check_window(reference.mask.reduction, self.radius)
        index = options.get(BATCH_KEY)
        bound = {reference: self.bind_mask(reference, noise.shape, patcher.model, layout, index)
                 for reference in references if reference}
        report = options.setdefault(REPORT_KEY, RunReport())
        report.notes += dict.fromkeys(itertools.chain.from_iterable(mask.list_notes() for mask in bound.values()))
        for cond, reference in zip(conds, references):
            cond["model_conds"] = {**cond["model_conds"], name_rows(self.key): RowCond(torch.arange(noise.shape[0]))}
            self.attach_to_condition(cond, bound.get(reference), patcher)
        with contextlib.ExitStack() as stack:
            if uses_cache(options):
                uses = list_uses(guider.conds, self.key, tuple(noise.shape[2:]), patcher.load_device)
                have_loaded(self.hold(stack, uses, patcher, options), patcher, conds[0], options)
            out = executor(noise, *args, **kwargs)
        self.check_reads(report)
        return out

    def bind_mask(self, reference: MaskReference, latents: torch.Size, model, layout: MaskLayout,
                  batch_index: list[int] | None) -> BoundMask:
        """The mask as one run on latents (B, C, H, W) sees it."""
        return BoundMask(reference, latents, model, layout, batch_index)

    def attach_to_condition(self, cond: dict, mask: BoundMask | None, patcher):
        """Gives a condition its mask in the form that the host batches, and tells the host what to load for it."""
        cond["model_conds"] = {**cond["model_conds"], self.key: MaskCond(mask)}
        if mask is not None:
            cond["additional_models"] = [*cond.get("additional_models", []), *self.list_additional_models(patcher)]

    def hold(self, stack: contextlib.ExitStack, uses: list[MaskUse], patcher, options: dict) -> list[CachePatcher]:
        """Keeps room for this run's entries on each of its devices; the memory holders."""
        mode = options.get(OPTIONS_KEY, CacheOptions()).mode
        holders = []
        for copy in [patcher, *patcher.get_additional_models_with_key("multigpu")]:
            dtype = copy.model.get_dtype_inference()
            state = patcher.patches_uuid, self.identity, mode, dtype
            for store, needs in self.list_needs(uses, 1 if mode == "8-bit" else dtype.itemsize).items():
                plan = plan_run(store.get_cache(copy.load_device), needs, state)
                stack.enter_context(store.get_cache(copy.load_device).reserve(*plan))
                holders.append(store.get_patcher(copy.load_device, copy.offload_device))
        return holders

    def list_needs(self, uses: list[MaskUse], itemsize: int) -> dict[StaticStore, dict[tuple, Need]]:
        """The entries that a run needs of each store: one for all equal uses of a mask or exemplar."""
        found = collections.defaultdict(dict)
        for use in uses:
            for part in use.cond.cond.list_cached_parts():
                different = part.get_tokens(use.area)[1], use.hooks, use.cond if self.prompted else None
                need = Need(part.plan_bytes(use.area, itemsize, self.radius), use.start, use.end)
                needs = found[part.store]
                needs[different] = need.join(needs.get(different, need))
        return found

    def check_reads(self, report: RunReport):
        """Adds a note where another node prevented blocks from reading the masks."""
        read, expected = report.reads.get(self.key, (0, 0))
        if read == expected:
            return
        note = f"masks read in {read} of {expected} block calls: another node skips blocks or steps"
        if read == 0:
            note = ("no block read the mask: another node replaces the model's forward or its blocks without calling "
                    "what was there; remove it, or apply it before the adapter")
        if report.replacements:
            note += f" (found in the model: {', '.join(report.replacements)})"
        if read == 0:
            logging.warning("MDiT: %s", note)
        report.notes.append(note)

    def mark_prompts(self, executor, guider, *args, **kwargs):
        """SAMPLER_SAMPLE: marks the prompt of each condition; see prompt.py."""
        names = self.list_prompt_inputs(guider.model_patcher.model)
        for cond in itertools.chain.from_iterable(guider.conds.values()):
            mark_prompt(cond, names)
        return executor(guider, *args, **kwargs)

    def attach(self, executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
               transformer_options={}, **kwargs):
        """APPLY_MODEL: turns the masks of the chunks into the keys and values that each row of the batch reads."""
        chunks = kwargs.pop(self.key, None)
        places = kwargs.pop(name_rows(self.key), None)
        rows = ()
        if chunks:
            runs = self.find_runs(executor.class_obj, chunks, find_places(places, chunks, x), kwargs)
            rows = self.find_rows(executor.class_obj, runs, x, t, transformer_options)
        call = partial(self.call_model, executor, rows) if rows else executor
        return call(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def find_runs(self, model, chunks: list[MaskCond], places: list[tuple[int, int]], conds: dict) -> list[ChunkRun]:
        """The neighbouring rows of a call that read the same; `places` are the chunk and the row of each."""
        runs: list[ChunkRun] = []
        start = 0
        for i, group in itertools.groupby(places, key=itemgetter(0)):
            numbers = tuple(row for _, row in group)
            rows = slice(start, start + len(numbers))
            prompt, digest = self.find_prompt(model, conds, i, rows)
            key = chunks[i].cond, chunks[i].area, digest, select_rows(chunks[i].cond, numbers, prompt)
            if runs and runs[-1].key == key:
                runs[-1] = runs[-1]._replace(rows=slice(runs[-1].rows.start, rows.stop))
            else:
                runs.append(ChunkRun(key, rows, prompt))
            start = rows.stop
        return runs

    def find_rows(self, model, runs: list[ChunkRun], x: Tensor, sigma: Tensor, transformer_options: dict
                  ) -> tuple[MaskRows, ...]:
        """What the rows of the batch, each at its sigma (B,), read: one item for each run; empty without masks."""
        found = []
        for run in runs:
            mask, area, _, _ = run.key
            if mask is None or not mask.reference.is_active(model.model_sampling, sigma[0]):
                found.append(MaskRows(run.rows, None))
                continue
            check_size(mask, area, x)
            found.append(self.make_rows(model, run, x, sigma, transformer_options))
        return tuple(found) if any(part.kv is not None for part in found) else ()

    def make_rows(self, model, run: ChunkRun, x: Tensor, sigma: Tensor, transformer_options: dict) -> MaskRows:
        """What the rows of a run read of their mask."""
        mask, area, digest, selected = run.key
        entry = self.find_entry(model, mask, area, run.prompt, digest, x.device, transformer_options)
        exemplar = self.find_exemplar_keys(model, mask, area, x.device, transformer_options)
        bias = make_key_bias(entry, mask.reference.strength)
        if selected is not None:
            entry = SelectedRows(entry, selected)
            exemplar = None if exemplar is None else exemplar.select_rows(selected)
        return MaskRows(run.rows, entry, bias, exemplar)

    def find_prompt(self, model, conds: dict, chunk: int, rows: slice) -> tuple[Prompt | None, tuple]:
        """The prompt of a chunk and its digest; None and an empty digest where keys do not depend on it."""
        if not self.prompted:
            return None, ()
        return read_prompt(conds, self.list_prompt_inputs(model), chunk, rows)

    def find_entry(self, model, mask: BoundMask, area: tuple | None, prompt: Prompt | None, prompt_digest: Hashable,
                   device: torch.device, transformer_options: dict) -> StaticEntry:
        """What the rows of a mask read in one region of the image."""
        options = transformer_options.get(OPTIONS_KEY, CacheOptions())
        tokens, digest = mask.get_tokens(area)
        reduction = mask.reference.mask.reduction
        dtype = model.get_dtype_inference()

        def compute() -> StaticEntry:
            kv = self.run_static_path(model, tokens, device, dtype, prompt, transformer_options)
            compute_rotation = partial(self.compute_rotation, model, device, transformer_options)
            return reduce_entry(kv, tokens, REDUCTIONS[reduction], self.radius, compute_rotation,
                                eight_bit=options.mode == "8-bit")

        rope = tuple(sorted((transformer_options.get("rope_options") or {}).items()))
        inputs = EntryInputs(digest, device, reduction, rope, prompt_digest)
        return self.look_up(model, mask.store, inputs, compute, transformer_options)

    def find_exemplar_keys(self, model, mask: BoundMask, area: tuple | None, device: torch.device,
                           transformer_options: dict) -> ExemplarKeys | None:
        """What the rows of a mask read of its exemplar; None where it has none."""
        if mask.exemplar is None:
            return None
        tokens, digest = mask.exemplar.get_tokens(area)
        options = transformer_options.get(OPTIONS_KEY, CacheOptions())
        dtype = model.get_dtype_inference()

        def compute() -> StaticEntry:
            candidates_and_match, kv = self.run_exemplar_path(model, tokens.to(device, dtype))
            entry = StaticEntry(kv, None, options.mode == "8-bit")
            entry.blocks.append(candidates_and_match)
            return entry

        inputs = EntryInputs(digest, device)
        entry = self.look_up(model, mask.exemplar.store, inputs, compute, transformer_options)
        candidates, match = entry[-1]
        return ExemplarKeys(candidates, match, entry, mask.reference.exemplar_strength)

    def look_up(self, model, store: StaticStore, inputs: EntryInputs, compute: Callable[[], StaticEntry],
                transformer_options: dict) -> StaticEntry:
        """What `compute` makes, from the store if it is there."""
        options = transformer_options.get(OPTIONS_KEY, CacheOptions())
        report = transformer_options.get(REPORT_KEY) or RunReport()
        if not uses_cache(transformer_options):
            return compute_and_count(compute, report)
        patcher = model.current_patcher
        key = make_key(patcher, self.identity, inputs, options.mode, model.get_dtype_inference())
        entry = store.get_cache(patcher.load_device).get(key, compute, report)
        if options.offload:
            entry.store_on(patcher.offload_device)
        entry.resident = not options.offload
        return entry


class ChunkRun(NamedTuple):
    """Neighbouring rows of a model call that read the same rows of one entry.

    key: their mask, region, digest of the prompt, and the entry's rows, None for all.
    prompt: None where keys do not depend on it.
    """
    key: tuple
    rows: slice
    prompt: Prompt | None


def name_rows(key: str) -> str:
    """The name of the model input that says which rows of the batch a call has, for the reader of this key."""
    return f"{key}.rows"


def select_rows(mask: BoundMask | None, rows: tuple[int, ...], prompt: Prompt | None) -> tuple[int, ...] | None:
    """The rows of a mask's entry that these rows of the batch read; None for all.

    Raises ValueError where rows read different maps, and another node took some out without saying which.
    """
    if mask is None or mask.rows == 1 or rows == tuple(range(mask.rows)):
        return None
    if UNKNOWN in rows or any(len(part) > 1 for part in (prompt or {}).values()):
        kind = mask.reference.mask.kind
        raise ValueError(f"model: another node samples {len(rows)} of {mask.rows} latents at a time, and the {kind} "
                         f"of each cannot be told: remove that node, or use one {kind} for all latents")
    return rows


class StandAloneReader(MaskReader):
    """Reads masks for a base model whose network takes `mask_rows` (see MDiT.forward)."""

    def bind(self, executor, noise: Tensor, *args, **kwargs):
        """Raises ValueError, too, for what other nodes added for other networks, and notes what has no effect."""
        guider = executor.class_obj
        check_additions(itertools.chain.from_iterable(guider.conds.values()), "a stand-alone MDiT",
                        ", or use 'Apply Adapter (MDiT)' on a model that it fits")
        note_patches(guider.model_options["transformer_options"])
        try:
            return super().bind(executor, noise, *args, **kwargs)
        except (AttributeError, KeyError, TypeError) as error:
            module = find_foreign_module(error)
            if module is None:
                raise
            reason = (str(error).splitlines() or [""])[-1]  # what comes before may be the whole network
            raise ValueError(f"model: code of another node ({module}) fails on a stand-alone MDiT, since it was made "
                             f"for other models: remove that node ({type(error).__name__}: {reason})") from error

    def get_layout(self, model) -> MaskLayout:
        return model.diffusion_model.config.mask_layout

    def run_static_path(self, model, tokens, device, dtype, prompt, transformer_options):
        positions = tokens.list_positions().to(device)
        return model.diffusion_model.run_static_path(tokens.tokens.to(device, dtype), positions, transformer_options)

    def compute_rotation(self, model, device, transformer_options, positions) -> Tensor | None:
        return model.diffusion_model.encode_positions(positions.to(device), transformer_options)[1]

    def run_exemplar_path(self, model, tokens):
        return model.diffusion_model.exemplar.run_static_path(tokens)

    def call_model(self, executor, mask_rows, *args, **kwargs) -> Tensor:
        return executor(*args, mask_rows=mask_rows, **kwargs)


def have_loaded(holders: list[CachePatcher], patcher, cond: dict, options: dict):
    """Has the host load memory holders for the run of a MODEL, which a condition of the run tells it.

    Beside a model with dynamic memory they need a call of their own: one patcher without it makes the host unload other
    models, such as the VAE, for the whole call.
    """
    if patcher.is_dynamic():
        prepare = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING
        comfy.patcher_extension.add_wrapper(prepare, partial(load_afterwards, holders), options)
    else:
        cond["additional_models"] = [*cond.get("additional_models", []), *holders]


def load_afterwards(holders: list[CachePatcher], executor, *args, **kwargs):
    """PREPARE_SAMPLING: loads the models, then the memory holders."""
    loaded = executor(*args, **kwargs)
    comfy.model_management.load_models_gpu(holders)
    return loaded


def name_model(patcher) -> str:
    """The file that a MODEL was loaded from, if its loader noted it, and its class."""
    kind = type(patcher.model).__name__
    source = patcher.cached_patcher_init
    return f"'{Path(source[1][0]).name}' ({kind})" if source and isinstance(source[1][0], str) else f"this {kind}"


def reads_masks(patcher) -> bool:
    """Whether a MODEL reads the masks of its conditionings."""
    keys = patcher.wrappers.get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {})
    return any(is_mask(str(key)) for key in keys)


def uses_cache(transformer_options: dict) -> bool:
    """Whether a run stores its entries: not with the mode `off`, and not with gradients."""
    mode = transformer_options.get(OPTIONS_KEY, CacheOptions()).mode
    return mode != "off" and not torch.is_grad_enabled()


def check_size(mask: BoundMask, area: tuple | None, x: Tensor):
    """Raises ValueError where x (B, C, h, w) has another size than the region that the mask was bound to."""
    expected = tuple(area[:2]) if area else tuple(mask.latents[-2:])
    if tuple(x.shape[-2:]) != expected:
        raise ValueError(f"latent: another node changed its size from {expected} to {tuple(x.shape[-2:])} inside the "
                         "model call (tiled sampling, or context windows over height or width?), which a mask cannot "
                         "follow: sample without that node")
