"""A host's network that reads masks by an adapter, with gradients for the adapter."""
from __future__ import annotations

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import time_snr_shift
from comfy.patcher_extension import WrapperExecutor

from ...labelmap import resize_nearest
from ...mditface.adapter.reader import AdapterReader
from ...mditface.adapter.streams import Inputs, MaskStream
from ...mditface.adapter.weights import Adapter
from ...mditface.attention import MaskRows
from ...mditface.entries import reduce_entry
from ...mditface.prompt import Prompt
from ...mditface.reductions import REDUCTIONS
from ...mditface.tokens import MaskTokens, make_mask_tokens

NORMS = ("img_norm1", "img_norm2", "txt_norm1", "txt_norm2", "pre_norm")  # of FLUX's blocks
VISIBLE = torch.ones(0)  # palette pictures have no channel for each class


class MaskedBase(nn.Module):
    """The flow matching loss of spec section 3.7; only `terms`, the adapter's, require gradients."""

    def __init__(self, base: ModelPatcher, adapter: Adapter, reduction: str, guidance: float, checkpointing: bool,
                 shift: float):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: it is '{reduction}', must be one of {', '.join(REDUCTIONS)}")
        self.base, self.reduction, self.guidance, self.shift = base, REDUCTIONS[reduction], guidance, shift
        self.reader = TrainingReader(adapter, checkpointing)
        self.terms = adapter.terms.requires_grad_(True)
        self.network = base.model.diffusion_model.requires_grad_(False)
        for name, layer in self.network.named_modules():
            if name.rsplit(".", 1)[-1] in NORMS:
                layer.register_forward_pre_hook(copied)

    @property
    def device(self) -> torch.device:
        return next(self.terms.parameters()).device

    def forward(self, latent: Tensor, context: Tensor, pooled: Tensor, mask_latent: Tensor, rng: torch.Generator,
                labels: Tensor | None = None, masked: bool = True) -> Tensor:
        """Mean squared error of the velocity noise - latent.

        latent, mask_latent: (B, C, h, w) as the VAE makes them; context: (B, L, D); pooled: (B, P); labels:
        (B, H, W).
        """
        clean = self.base.model.process_latent_in(latent).float()
        random = dict(generator=rng, device=clean.device)
        sigma = time_snr_shift(self.shift, torch.sigmoid(torch.randn(len(clean), **random)))
        noise = torch.randn(clean.shape, **random)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))
        rows = self.rows(mask_latent, labels, pooled) if masked else ()
        return F.mse_loss(self.velocity(noisy, sigma, context, pooled, rows).float(), noise - clean)

    def velocity(self, noisy: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor, rows: tuple[MaskRows, ...]
                 ) -> Tensor:
        """The network's prediction; with no rows, without a mask."""
        model, dtype = self.base.model, self.base.model.get_dtype_inference()
        kwargs = {"y": pooled.to(dtype)}
        if self.flux_guidance:
            kwargs["guidance"] = noisy.new_full((len(noisy),), self.guidance)

        def read(executor, *args, **kwargs) -> Tensor:
            return self.reader.call(executor, rows, *args, **kwargs)

        executor = WrapperExecutor.new_class_executor(self.call_network, model, [read] if rows else [])
        return executor.execute(noisy.to(dtype), model.model_sampling.timestep(sigma).float(), None,
                                context.to(dtype), None, self.reader.options(model), **kwargs)

    @property
    def flux_guidance(self) -> bool:
        return self.reader.adapter.config.family == "flux" and self.network.params.guidance_embed

    def call_network(self, x, t, c_concat, context, control, transformer_options, **kwargs) -> Tensor:
        return self.network(x, t, context=context, control=control, transformer_options=transformer_options, **kwargs)

    def rows(self, mask_latent: Tensor, labels: Tensor | None, pooled: Tensor) -> tuple[MaskRows, ...]:
        """The masks' keys and values, in the form that the adapter reads."""
        model, reader = self.base.model, self.reader
        tokens = self.tokens(mask_latent, labels)
        kv = list(reader.static_path(model, tokens, mask_latent.device, model.get_dtype_inference(),
                                     self.prompt(pooled), {}))
        if self.reduction.merge and not reader.radius:  # each label map has flat regions of its own
            return tuple(self.row(slice(i, i + 1), kv, tokens) for i in range(len(pooled)))
        return (self.row(slice(0, len(pooled)), kv, tokens),)

    def row(self, rows: slice, kv: list[tuple[Tensor, Tensor]], tokens: MaskTokens) -> MaskRows:
        """The entry of some rows of the batch."""
        tokens = tokens._replace(classes=tokens.classes[rows])
        rotation = partial(self.reader.rotation, self.base.model, kv[0][0].device, {})
        entry = reduce_entry([(k[rows], v[rows]) for k, v in kv], tokens, self.reduction, self.reader.radius, rotation)
        return MaskRows(rows, entry, entry.bias)

    def tokens(self, mask_latent: Tensor, labels: Tensor | None) -> MaskTokens:
        model = self.base.model
        pixels = model.latent_format.spacial_downscale_ratio
        size = [side * pixels for side in mask_latent.shape[-2:]]
        if labels is None:
            labels = torch.zeros(len(mask_latent), *size, dtype=torch.uint8, device=mask_latent.device)
        return make_mask_tokens(resize_nearest(labels, *size), model.process_latent_in(mask_latent).float(), VISIBLE,
                           self.reader.layout(model), pixels, self.reduction)

    def prompt(self, pooled: Tensor) -> Prompt | None:
        if not self.reader.prompted:
            return None
        return Prompt(pooled, pooled.new_full((len(pooled),), self.guidance) if self.flux_guidance else None)

    @torch.no_grad()
    def sample(self, latent: Tensor, context: Tensor, pooled: Tensor, mask_latent: Tensor, sigmas: Tensor, seed: int,
               labels: Tensor | None = None) -> Tensor:
        """Latents like `latent` by Euler steps over sigmas (steps + 1,), as the model works on them."""
        rows = self.rows(mask_latent, labels, pooled)
        x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent.device)
        for sigma, after in zip(sigmas, sigmas[1:]):
            velocity = self.velocity(x, sigma.to(x).expand(len(x)), context, pooled, rows)
            x = x + (after - sigma).to(x) * velocity.float()
        return x


class TrainingReader(AdapterReader):
    """Reads the masks with gradients, on request with the blocks of both paths computed again in the backward pass."""

    def __init__(self, adapter: Adapter, checkpointing: bool):
        super().__init__(adapter, weight=1.0, condition=0)
        self.checkpointing = checkpointing

    def stream(self, model) -> MaskStream:
        stream = super().stream(model)
        if self.checkpointing and torch.is_grad_enabled():
            stream.inputs = partial(checkpointed_inputs, stream.inputs)
        return stream

    def options(self, model) -> dict:
        """Transformer options of a call of the network."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return {}
        stream = super().stream(model)
        patches = {name: partial(checkpointed_block, stream, i) for i, name in enumerate(stream.names)}
        return {"patches_replace": {"dit": patches}}


def copied(module: nn.Module, args: tuple) -> tuple:
    """FLUX's blocks change in place what their norms have kept for the backward pass."""
    return args[0].clone(), *args[1:]


def checkpointed_block(stream: MaskStream, i: int, args: dict, extra: dict) -> dict:
    """A block whose inside is computed again in the backward pass, from inputs that it may not change.

    The host's own closure of the block would call whichever block its loop has come to by then.
    """
    def run(img: Tensor, txt: Tensor | None) -> dict:
        streams = {"img": img.clone()} | ({} if txt is None else {"txt": txt.clone()})
        return stream.block_call(i, partial(flux_block, stream.network, i))({**args, **streams})
    return checkpoint(run, args["img"], args.get("txt"), use_reentrant=False)


def flux_block(network: nn.Module, i: int, args: dict) -> dict:
    """What FLUX's forward does with block i, counted over double and single blocks."""
    rest = {name: args.get(name) for name in ("vec", "pe", "attn_mask", "transformer_options")}
    if i < len(network.double_blocks):
        img, txt = network.double_blocks[i](img=args["img"], txt=args["txt"], **rest)
        return {"img": img, "txt": txt}
    return {"img": network.single_blocks[i - len(network.double_blocks)](args["img"], **rest)}


def checkpointed_inputs(inputs, i: int, msk: Tensor, vec: Tensor, pe: Tensor | None) -> Inputs:
    """The mask stream's, computed again in the backward pass."""
    def finish(attention: Tensor) -> Tensor:
        return checkpoint(lambda attention: inputs(i, msk, vec, pe).finish(attention), attention, use_reentrant=False)
    q, k, v = checkpoint(lambda msk: inputs(i, msk, vec, pe)[:3], msk, use_reentrant=False)
    return Inputs(q, k, v, finish)
