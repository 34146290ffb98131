"""Masks for the host's models: an adapter makes their keys and values, the blocks' attention reads them
(docs/design/adapters.md, section 5, and docs/design/mditface.md, section 6.4)."""
from __future__ import annotations

import math

import torch
from torch import Tensor

import comfy.ldm.common_dit

from ...shared.masks import CONDITIONING_KEY, REPORT_KEY
from ..attention import MaskRows, ReadPattern, repeat_rows, take_rows
from ..config import MaskLayout
from ..keys import EntryInputs
from ..math import patchify
from ..placements import ON_IMAGE, PLACEMENTS
from ..reader import ChunkRun, MaskReader
from .blocks import BlockPatch, JointPatch, count_reads, follow_blocks
from .compiled import check_compiled, describe_form, get_plain, is_compiled, mark_form
from .condition import BoundCondition, Condition, ConditionEntry
from .config import KINDS
from .families import FAMILIES, MODULATION, Family, find_family, list_family_titles
from .streams import MaskStream
from .terms import Adapter


def make_mask_key(adapter: Adapter) -> str:
    """Where a conditioning carries a mask meant for one adapter alone."""
    return f"{CONDITIONING_KEY}.{adapter.id}"


def apply_adapter(patcher, adapter: Adapter, weight: float = 1.0, condition: int | None = None):
    """A clone of a MODEL that reads masks by an adapter.

    weight: multiplies the low-rank terms.
    condition: as in MaskLayout, instead of the adapter's own.
    Raises ValueError for a model that the adapter does not fit.
    """
    check_base(patcher, adapter)
    if condition and adapter.config.window:
        raise ValueError(f"condition_size: this adapter reads the mask in windows (window {adapter.config.window}), "
                         "which need a mask of the image's size: set it to 0")
    if condition and adapter.mixer.pictures > 1:
        raise ValueError(f"condition_size: {adapter.mixer.title} needs one condition token for each token of the "
                         "image: set it to 0")
    make_reader = JointReader if adapter.config.joint else AdapterReader
    reader = make_reader(adapter, weight, adapter.config.condition if condition is None else condition)
    if any(reader.key in keys for keys in patcher.wrappers.values()):
        raise ValueError("adapter: the model already has this adapter: remove one 'Apply Adapter (MDiT)', set 'weight'")
    patcher = patcher.clone()
    reader.install(patcher)
    return patcher


def check_model(patcher) -> Family:
    """The family of a MODEL that can read masks by an adapter; ValueError for any other."""
    network = getattr(patcher.model, "diffusion_model", None)
    family = find_family(network)
    if family is None:
        raise ValueError(f"model: a {type(patcher.model).__name__} cannot read masks with an adapter. Load a model of "
                         f"{list_family_titles()}, or a stand-alone model with 'Load Face Model (MDiT)'")
    family.check(network)
    return family


def check_base(patcher, adapter: Adapter) -> None:
    """Raises ValueError for a MODEL that the adapter was not made for."""
    family = check_model(patcher)
    config = adapter.config
    if family.key != config.family:
        raise ValueError(f"adapter: it was made for family {config.family}, but the model has family {family.key}: "
                         "load an adapter made for this model")
    width, depth = family.measure(patcher.model.diffusion_model)
    if (width, depth) != (config.width, config.depth):
        hint = f" (this one belongs to {config.base_hint})" if config.base_hint else ""
        raise ValueError(f"adapter: it was made for width {config.width} and {format_depth(config.depth)} blocks, but "
                         f"the model has width {width} and {format_depth(depth)} blocks: load an adapter made for this "
                         f"model{hint}")


def format_depth(depth: tuple[int, int]) -> str:
    return f"{depth[0]} + {depth[1]}" if depth[1] else str(depth[0])


class AdapterReader(MaskReader):
    """Reads masks by an adapter on a host model, whose blocks take the keys through `patches_replace`.

    patch: stands in place of each block.
    """
    patch = BlockPatch

    def __init__(self, adapter: Adapter, weight: float, condition: int):
        self.adapter = adapter
        self.weight = weight
        self.condition = condition
        self.family = FAMILIES[adapter.config.family]
        self.key = make_mask_key(adapter)
        self.identity = (adapter.id, weight, condition)
        self.prompted = adapter.config.prompted
        self.radius = adapter.config.window

    def list_additional_models(self, patcher) -> list:
        return self.adapter.copies.list_for(patcher)

    def get_layout(self, model) -> MaskLayout:
        config = self.adapter.config
        beside = self.family.conditioned and not config.window
        return MaskLayout("vae_palette", config.palette, model.diffusion_model.patch_size, sum(config.depth),
                          config.width, condition=self.condition, corner=config.corner,
                          placements=tuple(PLACEMENTS) if beside else (ON_IMAGE,))

    def make_stream(self, model) -> MaskStream:
        terms = self.adapter.copies.find(model.current_patcher)
        return self.family.stream(get_plain(model.diffusion_model), self.adapter.config, terms, self.weight)

    def list_prompt_inputs(self, model) -> tuple[str, ...]:
        return self.family.list_prompt_inputs(model.diffusion_model)

    def run_static_path(self, model, tokens, device, dtype, prompt, transformer_options):
        return self.make_stream(model).run_static_path(tokens, device, dtype, prompt, transformer_options)

    def compute_rotation(self, model, device, transformer_options, positions) -> Tensor | None:
        return self.make_stream(model).compute_rotation(positions.to(device), transformer_options)

    def call_model(self, executor, rows, x: Tensor, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        stream = self.make_stream(executor.class_obj)
        patch = executor.class_obj.diffusion_model.patch_size
        grid = tuple(-(-side // patch) for side in x.shape[-2:])
        text = 0 if c_crossattn is None else c_crossattn.shape[1]
        pattern = ReadPattern(text, self.adapter.config.text_reads_mask, self.radius, grid)
        inner = transformer_options.get("patches_replace", {}).get("dit", {})
        patches = {name: self.patch(rows, i, inner.get(name), stream, pattern, transformer_options)
                   for i, name in enumerate(stream.names)}
        options = stream.place_patches(patches, grid, transformer_options)
        if is_compiled(executor.class_obj.diffusion_model, transformer_options):
            check_compiled(stream)
            control = mark_form(control, repr((self.key, describe_form(rows))))
        with follow_blocks(stream, patches):
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if REPORT_KEY in transformer_options:
            count_reads(transformer_options[REPORT_KEY], self.key, stream, patches)
        return out


class JointReader(AdapterReader):
    """Reads masks by an adapter whose mask tokens read text and image, so nothing but their modulation and what they
    are mixed of can be stored."""
    patch = JointPatch

    def get_layout(self, model) -> MaskLayout:
        """A mixer of several pictures draws them of the classes. OminiControl's files know none: a label map there
        means a Face-MoGLE without its gate."""
        layout = super().get_layout(model)
        return layout._replace(classes=False) if self.adapter.mixer.pictures == 1 else layout._replace(placements=())

    def list_additional_models(self, patcher) -> list:
        return [*super().list_additional_models(patcher), *self.adapter.mixer.list_additional_models(patcher)]

    def bind_mask(self, reference, latents, model, layout, batch_index) -> BoundCondition:
        chunks = sum(count * self.family.blocks[kind].layers[MODULATION].n_out[0]
                     for kind, count in zip(KINDS, self.adapter.config.depth))
        return BoundCondition(reference, latents, model, layout, batch_index, mixer=self.adapter.mixer,
                              modulation=chunks * layout.width)

    def find_entry(self, model, mask: BoundCondition, area, prompt, prompt_digest, device, transformer_options
                   ) -> ConditionEntry:
        tokens, digest = mask.get_tokens(area)
        stream = self.make_stream(model)

        def compute() -> ConditionEntry:
            prepared = self.adapter.mixer.prepare(model, tokens.tokens.to(device))
            vec = stream.make_vector(torch.zeros(1, device=device), prompt, model.get_dtype_inference())
            return ConditionEntry(prepared, (stream.modulate(i, vec) for i in range(stream.blocks)))

        inputs = EntryInputs(digest, device, prompt=prompt_digest)
        return self.look_up(model, mask.store, inputs, compute, transformer_options)

    def make_rows(self, model, run: ChunkRun, x: Tensor, sigma: Tensor, transformer_options: dict) -> MaskRows:
        mask, area, digest, selected = run.key
        entry = self.find_entry(model, mask, area, run.prompt, digest, x.device, transformer_options)
        patch = mask.layout.patch
        noisy = patchify(comfy.ldm.common_dit.pad_to_patch_size(x[run.rows], (patch, patch)), patch)  # (B, N, F)
        kept = [spread_rows(part, selected, len(noisy)) for part in entry[0]]
        features = self.adapter.mixer.mix(model, kept, noisy, sigma[run.rows])
        stream = self.make_stream(model)
        tokens, _ = mask.get_tokens(area)
        msk, pe = stream.start(tokens, features.to(model.get_dtype_inference()), transformer_options)
        strength = mask.reference.strength
        bias = None if strength == 1 else torch.full((1, msk.shape[1]), math.log(strength), device=x.device)
        return MaskRows(run.rows, Condition(stream, msk, pe, entry, strength), bias)


def spread_rows(x: Tensor, selected: tuple[int, ...] | None, count: int) -> Tensor:
    """What `count` rows of a batch read of x (b, ...): these rows of it, or all in turn."""
    return repeat_rows(x if selected is None else take_rows(x, selected), count)
