"""A small base model in SD3's layout, trained from nothing, to try adapters on small machines."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn as nn
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.sd
from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT, get_2d_sincos_pos_embed
from comfy.model_patcher import ModelPatcher

from ...training.data import choose_view, fit_length, stack_text, make_step_rng, make_torch_rng
from ...training.flow import compute_flow_loss, follow_flow
from ...training.optimizers import make_optimizers
from ...training.patch_vae import CELL, CHANNELS
from ...training.sampling import make_sheet
from ...training.settings import Count, EncodedSettings, Positive, Fraction
from ...training.targets.base import Batches, Target

PATCH = 2  # cells along a token's side
HEAD = 64  # the width of SD3's heads; the host takes width and heads from the number of blocks
PREFIX = "network."
PUBLISHED = "model.diffusion_model."
SHEET_COUNT = 12
SHEET_STEPS = 20
METRIC_COUNT = 16


class SD3Settings(EncodedSettings):
    """Settings of a small SD3.

    depth: number of blocks and heads; the width is 64 times as much.
    drop_text: fraction of the samples without text.
    """
    vae: Path
    clip: tuple[Path, ...]
    size: Annotated[int, Field(ge=16, multiple_of=CELL * PATCH)]
    depth: Count
    shift: Positive = 3.0
    drop_text: Fraction = 0.1


def make_new_weights(depth: int, side: int, text: int, pooled: int) -> dict[str, Tensor]:
    """Starting weights under the published keys of SD3.5-large, whose queries and keys are normalized.

    side: of the grid of tokens; text, pooled: widths of the text's tokens and pooled vector.
    """
    context = {"target": "torch.nn.Linear", "params": {"in_features": text, "out_features": depth * HEAD}}
    network = MMDiT(input_size=None, patch_size=PATCH, in_channels=CHANNELS, depth=depth, num_patches=side ** 2,
                    pos_embed_max_size=side, adm_in_channels=pooled, qk_norm="rms", context_embedder_config=context,
                    dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for name, weight in network.named_parameters():
        if name.endswith((".ln_q.weight", ".ln_k.weight")):
            nn.init.ones_(weight)
        elif weight.ndim == 1 or "adaLN_modulation" in name or name.startswith("final_layer"):
            nn.init.zeros_(weight)  # each block starts as the identity
        else:
            nn.init.xavier_uniform_(weight.data.flatten(1))
    network.pos_embed.copy_(torch.from_numpy(get_2d_sincos_pos_embed(depth * HEAD, side)))
    return add_prefix(network.state_dict())


def add_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {PUBLISHED + name: weight.contiguous() for name, weight in weights.items()}


class SD3Base(nn.Module):
    """The network of a host's SD3 with the flow matching loss."""

    def __init__(self, base: ModelPatcher, shift: float):
        super().__init__()
        self.shift = shift
        self.base = base
        self.network = base.model.diffusion_model.requires_grad_(True)

    def forward(self, latent: Tensor, context: Tensor, pooled: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared error of the velocity noise - latent.

        latent: (B, 16, h, w) as the VAE makes them; context: (B, L, D); pooled: (B, P).
        """
        clean = self.base.model.process_latent_in(latent).float()
        return compute_flow_loss(partial(self.predict_velocity, context=context, pooled=pooled), clean, self.shift, rng)

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        return self.network(noisy, self.base.model.model_sampling.timestep(sigma), context=context, y=pooled)

    @torch.no_grad()
    def sample(self, latent: Tensor, context: Tensor, pooled: Tensor, seed: int) -> Tensor:
        """Latents like `latent` by Euler steps, as the VAE makes them."""
        model = self.base.model
        sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "simple", SHEET_STEPS)
        velocity = partial(self.predict_velocity, context=context, pooled=pooled)
        return model.process_latent_out(follow_flow(velocity, latent, sigmas, seed))


class SD3Target(Target):
    """See base.Target.

    samples: as for AdapterTarget, without masks and all of one size.
    vae: decodes the sheets.
    empty: context and pooled of the empty prompt.
    """

    def __init__(self, settings: SD3Settings, samples: Sequence[dict[str, Tensor]], vae, empty: dict[str, Tensor],
                 heldout: Sequence[dict[str, Tensor]] = ()):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.samples = samples
        self.heldout = heldout
        self.vae = vae
        self.empty = empty
        _, text = samples[0]["context"].shape
        pooled, = samples[0]["pooled"].shape
        weights = make_new_weights(settings.depth, settings.size // (CELL * PATCH), text, pooled)
        base = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
        comfy.model_management.load_models_gpu([base], force_full_load=True)
        self.module = SD3Base(base, settings.shift)
        self.batches = Batches([0] * len(samples), settings.batch, settings.seed)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for the rest."""
        matrices = [w for name, w in self.module.network.joint_blocks.named_parameters()
                    if w.ndim == 2 and "adaLN" not in name]
        chosen = {id(w) for w in matrices}
        rest = [w for w in self.module.parameters() if id(w) not in chosen]
        return make_optimizers(self.settings.optimiser, matrices, [{"params": rest}])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings = self.settings
        index = self.batches(step, process, processes)
        rng = make_torch_rng(make_step_rng(settings.seed, step, process))
        batch = self.stack([choose_view(self.samples[i], rng, settings.mirror) for i in index.tolist()])
        silent = torch.rand(len(index), generator=rng) < settings.drop_text
        batch["context"][silent] = fit_length(self.empty["context"], batch["context"].shape[1])
        batch["pooled"][silent] = self.empty["pooled"]
        return batch

    def stack(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"latent": torch.stack([sample["latent"] for sample in samples]),
                "context": stack_text(samples),
                "pooled": torch.stack([sample["pooled"] for sample in samples])}

    def draw_sheet(self) -> np.ndarray | None:
        """Label maps, samples and true images of the first held-out captions. The samples follow the captions alone."""
        if not self.heldout:
            return None
        samples = [self.heldout[i] for i in range(min(SHEET_COUNT, len(self.heldout)))]
        batch = self.stack(samples)
        device = next(self.module.parameters()).device
        latents = self.module.sample(**{name: x.to(device) for name, x in batch.items()}, seed=0).cpu()
        labels = torch.stack([sample["labels"] for sample in samples])
        return make_sheet(labels, self.decode(latents), self.decode(batch["latent"]))

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, H, W, 3) uint8."""
        return (self.vae.decode(latents) * 255).round().clamp(0, 255).to(torch.uint8)

    def measure(self) -> dict[str, float]:
        """The loss on the first held-out samples. Each sample always has the same noise."""
        device = next(self.module.parameters()).device
        losses = []
        for number in range(min(len(self.heldout), METRIC_COUNT)):
            batch = self.stack([self.heldout[number]])
            rng = make_torch_rng(make_step_rng(self.settings.seed, number), device)
            losses.append(self.module(**{name: x.to(device) for name, x in batch.items()}, rng=rng).item())
        return {"heldout_loss": float(np.mean(losses))} if losses else {}

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """A file that the host's loaders open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(add_prefix({name.removeprefix(PREFIX): weight for name, weight in weights.items()}), path)
