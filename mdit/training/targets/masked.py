"""A host's network that reads masks by an adapter, with gradients for the adapter."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor

from ...labelmap import resize_nearest
from ...mditface.adapter.reader import AdapterReader
from ...mditface.adapter.streams import Inputs, MaskStream
from ...mditface.adapter.terms import Adapter
from ...mditface.attention import MaskRows
from ...mditface.entries import reduce_entry
from ...mditface.prompt import Prompt
from ...mditface.reductions import REDUCTIONS
from ...mditface.tokens import MaskTokens, make_mask_tokens
from ...shared.frames import has_frames, scale_in
from ..flow import compute_flow_loss, follow_flow

VISIBLE = torch.ones(0)  # an encoded label map has no channel for each class


class MaskedBase(nn.Module):
    """The flow matching loss (docs/design/mditface.md, section 3.7); only `terms`, the adapter's, require gradients."""

    def __init__(self, base: ModelPatcher, adapter: Adapter, reduction: str, guidance: float | None,
                 checkpointing: bool, shift: float):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: '{reduction}' must be one of {', '.join(REDUCTIONS)}")
        self.base = base
        self.reduction = REDUCTIONS[reduction]
        self.shift = shift
        self.reader = TrainingReader(adapter, checkpointing)
        self.guidance = self.reader.family.guidance if guidance is None else guidance
        self.terms = adapter.terms.requires_grad_(True)
        self.network = base.model.diffusion_model.requires_grad_(False)
        for name, layer in self.network.named_modules():
            if name.rsplit(".", 1)[-1] in self.reader.family.copied_norms:
                layer.register_forward_pre_hook(copy_input)

    @property
    def device(self) -> torch.device:
        return next(self.terms.parameters()).device

    def forward(self, latent: Tensor, context: Tensor, mask_latent: Tensor, rng: torch.Generator,
                pooled: Tensor | None = None, labels: Tensor | None = None, masked: bool = True,
                text_lengths: Tensor | None = None) -> Tensor:
        """Mean squared error of the velocity noise - latent.

        latent, mask_latent: (B, C, h, w) as the VAE makes them; context: (B, L, D); pooled: (B, P), for families that
        read it; labels: (B, H, W); text_lengths: (B,), how many text tokens count, for families with a text mask.
        """
        clean = scale_in(self.base.model, latent).float()
        rows = self.make_rows(mask_latent, labels, pooled) if masked else ()
        velocity = partial(self.predict_velocity, context=context, pooled=pooled, rows=rows, text_lengths=text_lengths)
        return compute_flow_loss(velocity, clean, self.shift, rng)

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor | None,
                         rows: tuple[MaskRows, ...], text_lengths: Tensor | None = None) -> Tensor:
        """The network's prediction; with no rows, without a mask."""
        model = self.base.model
        dtype = model.get_dtype_inference()
        missing = self.reader.family.text_tokens - context.shape[1]
        if missing > 0:
            context = F.pad(context, (0, 0, missing, 0))  # (B, L, D)
        inputs = self.make_prompt(len(noisy), None if pooled is None else pooled.to(dtype))
        if text_lengths is not None:
            numbers = torch.arange(context.shape[1], device=self.device)
            inputs["attention_mask"] = (numbers < text_lengths[:, None]).long()  # (B, L)

        def read(executor, *args, **kwargs) -> Tensor:
            return self.reader.call_model(executor, rows, *args, **kwargs)

        executor = WrapperExecutor.new_class_executor(self.call_network, model, [read] if rows else [])
        t = model.model_sampling.timestep(sigma).float()
        return executor.execute(noisy.to(dtype), t, None, context.to(dtype), None, self.reader.make_options(model),
                                **inputs)

    def make_prompt(self, count: int, pooled: Tensor | None) -> Prompt:
        """What the network takes of the prompt in addition to the text tokens, for `count` rows."""
        values = {"y": pooled, "guidance": torch.full((count,), self.guidance, device=self.device),
                  "num_tokens": None}  # an argument of Z-Image's class that it does not read
        return Prompt({name: values[name] for name in self.reader.list_prompt_inputs(self.base.model)})

    def call_network(self, x, t, c_concat, context, control, transformer_options, **kwargs) -> Tensor:
        frames = has_frames(self.base.model.latent_format)
        x = x[:, :, None] if frames else x  # (B, C, 1, h, w)
        with self.reader.checkpoint_layers(self.base.model):
            out = self.network(x, t, context=context, control=control, transformer_options=transformer_options,
                               **kwargs)
        return out[:, :, 0] if frames else out

    def make_rows(self, mask_latent: Tensor, labels: Tensor | None, pooled: Tensor | None) -> tuple[MaskRows, ...]:
        """The masks' keys and values, in the form that the adapter reads."""
        model = self.base.model
        count = len(mask_latent)
        tokens = self.make_tokens(mask_latent, labels)
        prompt = self.make_prompt(count, pooled) if self.reader.prompted else None
        dtype = model.get_dtype_inference()
        kv = list(self.reader.run_static_path(model, tokens, mask_latent.device, dtype, prompt, {}))
        if self.reduction.merge and not self.reader.radius:  # each label map has flat regions of its own
            return tuple(self.make_row(slice(i, i + 1), kv, tokens) for i in range(count))
        return (self.make_row(slice(0, count), kv, tokens),)

    def make_row(self, rows: slice, kv: list[tuple[Tensor, Tensor]], tokens: MaskTokens) -> MaskRows:
        """The entry of some rows of the batch."""
        tokens = tokens._replace(classes=tokens.classes[rows])
        compute_rotation = partial(self.reader.compute_rotation, self.base.model, kv[0][0].device, {})
        own_kv = [(k[rows], v[rows]) for k, v in kv]
        entry = reduce_entry(own_kv, tokens, self.reduction, self.reader.radius, compute_rotation)
        return MaskRows(rows, entry, entry.bias)

    def make_tokens(self, mask_latent: Tensor, labels: Tensor | None) -> MaskTokens:
        model = self.base.model
        pixels = model.latent_format.spacial_downscale_ratio
        height, width = (side * pixels for side in mask_latent.shape[-2:])
        if labels is None:
            labels = torch.zeros(len(mask_latent), height, width, dtype=torch.uint8, device=mask_latent.device)
        labels = resize_nearest(labels, height, width)
        latent = scale_in(model, mask_latent).float()
        return make_mask_tokens(labels, latent, VISIBLE, self.reader.get_layout(model), pixels, self.reduction)

    @torch.no_grad()
    def sample(self, latent: Tensor, context: Tensor, mask_latent: Tensor, sigmas: Tensor, seed: int,
               pooled: Tensor | None = None, labels: Tensor | None = None,
               text_lengths: Tensor | None = None) -> Tensor:
        """Latents like `latent` by Euler steps over sigmas (steps + 1,), as the model works on them."""
        rows = self.make_rows(mask_latent, labels, pooled)
        velocity = partial(self.predict_velocity, context=context, pooled=pooled, rows=rows, text_lengths=text_lengths)
        return follow_flow(velocity, latent, sigmas, seed)


class TrainingReader(AdapterReader):
    """Reads the masks with gradients, on request with the blocks of both paths computed again in the backward pass."""

    def __init__(self, adapter: Adapter, checkpointing: bool):
        super().__init__(adapter, weight=1.0, condition=0)
        self.checkpointing = checkpointing

    def make_stream(self, model) -> MaskStream:
        stream = super().make_stream(model)
        if self.checkpointing and torch.is_grad_enabled():
            stream.make_inputs = partial(checkpoint_inputs, stream.make_inputs)
        return stream

    def make_checkpointed(self, model, has_block_patches: bool) -> MaskStream | None:
        """The stream whose blocks compute again in the backward pass, if its network is of this kind."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return None
        stream = super().make_stream(model)
        return stream if stream.has_block_patches == has_block_patches else None

    def make_options(self, model) -> dict:
        """Transformer options of a call of the network."""
        stream = self.make_checkpointed(model, has_block_patches=True)
        if stream is None:
            return {}
        patches = {name: partial(checkpoint_block, stream, i) for i, name in enumerate(stream.names)}
        return {"patches_replace": {"dit": patches}}

    @contextlib.contextmanager
    def checkpoint_layers(self, model):
        """Inside, the blocks of a network that calls no patches of blocks compute again in the backward pass."""
        stream = self.make_checkpointed(model, has_block_patches=False)
        layers = [] if stream is None else stream.modules
        for layer in layers:
            layer.forward = partial(checkpoint_layer, layer.forward)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def copy_input(module: nn.Module, args: tuple) -> tuple:
    """Blocks change in place what their norms have stored for the backward pass."""
    return args[0].clone(), *args[1:]


def checkpoint_block(stream: MaskStream, i: int, args: dict, extra: dict) -> dict:
    """A block whose inside is computed again in the backward pass, from inputs that it may not change.

    The host's own closure of a block would call the block that its loop has reached by then.
    """
    def run(img: Tensor, txt: Tensor | None) -> dict:
        inputs = {"img": img.clone()}
        if txt is not None:
            inputs["txt"] = txt.clone()
        return stream.run_block(i, {**args, **inputs})
    return checkpoint(run, args["img"], args.get("txt"), use_reentrant=False)


def checkpoint_layer(forward: Callable, *args, transformer_options: dict, **kwargs) -> Tensor:
    """A block, with its own copy of the options, in which the host's loop notes the number of the block that runs."""
    return checkpoint(forward, *args, transformer_options={**transformer_options}, use_reentrant=False, **kwargs)


def checkpoint_inputs(make_inputs, i: int, msk: Tensor, vec: Tensor, pe: Tensor | None) -> Inputs:
    """The inputs that `make_inputs` gives, computed again in the backward pass."""
    def finish(attention: Tensor) -> Tensor:
        return checkpoint(lambda x: make_inputs(i, msk, vec, pe).finish(x), attention, use_reentrant=False)
    q, k, v = checkpoint(lambda x: make_inputs(i, x, vec, pe)[:3], msk, use_reentrant=False)
    return Inputs(q, k, v, finish)
