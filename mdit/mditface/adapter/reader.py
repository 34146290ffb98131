"""Masks for the host's models: an adapter makes their keys and values, the blocks' attention reads them
(docs/design/adapters.md, section 5, and docs/design/mditface.md, section 6.4)."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor

from ...shared.origins import name_replacements
from ..attention import AttentionCall, MaskRows, ReadPattern, attend_at_once, attend_masks, host_uses_pytorch
from ..cache import REPORT_KEY, RunReport
from ..config import MaskLayout
from ..mask import CONDITIONING_KEY
from ..reader import MaskReader
from .compiled import check_guards, describe_form, get_plain, is_compiled, mark_form
from .families import FAMILIES, Family, find_family, list_family_titles
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
    reader = AdapterReader(adapter, weight, adapter.config.condition if condition is None else condition)
    if any(reader.key in keys for keys in patcher.wrappers.values()):
        raise ValueError("adapter: the model already has this adapter: remove one 'Apply MDiT Adapter', set 'weight'")
    patcher = patcher.clone()
    reader.install(patcher)
    return patcher


def check_model(patcher) -> Family:
    """The family of a MODEL that can read masks by an adapter; ValueError for any other."""
    network = getattr(patcher.model, "diffusion_model", None)
    family = find_family(network)
    if family is None:
        raise ValueError(f"model: a {type(patcher.model).__name__} cannot read masks with an adapter. Load a model of "
                         f"{list_family_titles()}, or a stand-alone model with 'Load MDiT Model'")
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
    """Reads masks by an adapter on a host model, whose blocks take the keys through `patches_replace`."""

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
        return MaskLayout("vae_palette", config.palette, model.diffusion_model.patch_size, sum(config.depth),
                          config.width, condition=self.condition, corner=config.corner)

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
        replace = transformer_options.get("patches_replace", {})
        inner = replace.get("dit", {})
        patches = {name: BlockPatch(rows, i, inner.get(name), stream, pattern, transformer_options)
                   for i, name in enumerate(stream.names)}
        options = {**transformer_options, "patches_replace": {**replace, "dit": {**inner, **patches}}}
        if is_compiled(executor.class_obj.diffusion_model, transformer_options):
            control = mark_form(control, repr((self.key, describe_form(rows))))
        with follow_blocks(stream, patches):
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if REPORT_KEY in transformer_options:
            count_reads(transformer_options[REPORT_KEY], self.key, stream, patches)
        return out


@contextlib.contextmanager
def follow_blocks(stream: MaskStream, patches: dict[tuple[str, int], BlockPatch]):
    """Inside, the patch around a module that another node put in place of several blocks knows which of them runs."""
    with contextlib.ExitStack() as stack:
        if stream.places != stream.names:
            for i, (place, block) in enumerate(zip(stream.places, stream.modules)):
                stack.enter_context(block.register_forward_pre_hook(partial(patches[place].enter_block, i)))
        yield


def count_reads(report: RunReport, key: str, stream: MaskStream, patches: dict[tuple[str, int], BlockPatch]):
    """Adds to the report the blocks of one call that read the mask, and what kept the others from it."""
    read = sum(len(patch.read) for patch in patches.values())
    with report.lock:
        reads = report.reads.setdefault(key, [0, 0])
        reads[0] += read
        reads[1] += stream.blocks
    if read < stream.blocks:
        report.replacements |= dict.fromkeys(name_replacements([stream.network, *stream.modules]))


class BlockPatch:
    """Replaces one block: calls the block, or the patch that was there, with an attention that reads the masks.

    options: the transformer options of the model call, for a forward of another node that does not pass them on.
    place: the block's number.
    index: whose keys the attention reads: those of the block that runs.
    read: the blocks whose attention was reached.
    """

    def __init__(self, mask_rows: tuple[MaskRows, ...], index: int, inner: Callable | None, stream: MaskStream,
                 pattern: ReadPattern, options: dict):
        self.mask_rows = mask_rows
        self.place = index
        self.index = index
        self.inner = inner
        self.stream = stream
        self.pattern = pattern
        self.options = options
        self.use_lse = host_uses_pytorch()
        self.read = set()
        self.original = partial(stream.run_block, index)

    def enter_block(self, index: int, module: nn.Module, inputs: tuple):
        """Before a block runs inside of another node's module."""
        self.index = index

    def __call__(self, args: dict, extra: dict) -> dict:
        if not torch.compiler.is_compiling():
            check_guards(self.stream.find_entry(self.place))
        options = args.get("transformer_options")
        original = self.original
        if options is None:
            options = {**self.options, "img_slice": [self.pattern.text, args["img"].shape[1]]}
        else:
            original = self.stream.choose_block_call(self.index, extra["original_block"])
        text = args["txt"].shape[1] if "txt" in args else options["img_slice"][0]
        length = args["img"].shape[1] + (text if "txt" in args else 0)
        attend = partial(self.attend, options.get("optimized_attention_override"), text, length)
        args = {**args, "transformer_options": {**options, "optimized_attention_override": attend}}
        if self.inner is not None:
            return self.inner(args, {**extra, "original_block": original})
        return original(args)

    def attend(self, override: Callable | None, text: int, length: int, function: Callable, q: Tensor, k: Tensor,
               v: Tensor, heads: int, mask: Tensor | None = None, skip_reshape: bool = False, **kwargs) -> Tensor:
        """The attention override of the block, for queries of text and image; SD3.5's second attention has others.

        The host calls the attention mask `mask`.
        """
        call = function if override is None else partial(override, function)
        if not skip_reshape:  # SD3: q and k (B, T, H * D), v (B, T, H, D)
            q, k, v = (x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))

        def kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            return call(q, k, v, heads, mask=attn_mask, skip_reshape=True, **kwargs)

        if q.shape[2] != length:
            return kernel(q, k, v, mask)
        self.read.add(self.index)
        attention = AttentionCall(q, k, v, mask, kernel)
        base = self.pattern  # a `_replace` would not survive where PyTorch's compiler breaks the graph
        pattern = ReadPattern(text, base.text_reads, base.radius, base.grid)
        if override is None:
            return attend_masks(attention, self.mask_rows, self.index, pattern, self.use_lse)
        return attend_at_once(attention, self.mask_rows, self.index, pattern)
