"""An adapter that lets a host's model read masks; the base is frozen (docs/design/adapters.md, section 6)."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn as nn
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

import comfy.model_management
import comfy.samplers
from comfy.model_patcher import ModelPatcher

from ...labelmap import PALETTE, to_image
from ...mditface.adapter.config import MASK_VECS, ZERO_POOLED, AdapterConfig
from ...mditface.adapter.families import LAYER_NAMES, TRAINED_LAYERS, Family
from ...mditface.adapter.terms import Adapter
from ...mditface.adapter.weights import check_family
from ...mditface.reductions import REDUCTIONS, check_window
from ...shared.frames import decode_pictures, encode_pictures, scale_out
from ..data import choose_view, fit_length, stack_tensors, stack_text, make_step_rng, make_torch_rng
from ..optimizers import make_optimizers
from ..sampling import make_sheet
from ..settings import EncodedSettings, Positive, Section, Fraction
from .base import Batches, Target
from .lowrank import find_base_family, make_new_terms
from .masked import MaskedBase

SHEET_COUNT = 4
SHEET_STEPS = 20
METRIC_COUNT = 16
ALL_MEMORY = 1e20
PREFIX = "terms."


class Drop(Section):
    """What is hidden from the model. Hidden classes are painted as background.

    text: fraction of the samples without text.
    mask: fraction of the samples without any class, independent of `text`.
    classes: chance of each class of the other samples to be hidden.
    """
    text: Fraction = 0.1
    mask: Fraction = 0.1
    classes: Fraction = 0.0


class AdapterSettings(EncodedSettings):
    """Settings of an adapter.

    base: file of the host; it holds VAE and text encoders where `vae` and `clip` are not given.
    layers: which layers of the blocks have terms.
    window, mask_vec, text_reads_mask: as in AdapterConfig.
    reduction: as in MaskInput.
    guidance: value for families that embed a guidance value; by default the family's own.
    sheet: folder of label maps NAME.png and their prompts NAME.txt, which the sheets show instead of held-out samples.
    """
    base: Path
    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Positive = 16.0
    layers: tuple[Literal[LAYER_NAMES], ...] = TRAINED_LAYERS
    window: Annotated[int, Field(ge=0)] = 0
    reduction: Literal[tuple(REDUCTIONS)] = "off"
    mask_vec: Literal[MASK_VECS] = ZERO_POOLED
    text_reads_mask: bool = True
    guidance: float | None = None
    drop: Drop = Drop()
    sheet: Path | None = None


class AdapterTarget(Target):
    """See base.Target.

    samples, heldout: dicts of tensors: `latent` (C, h, w) of `encode_pictures`, `context` (L, D), `pooled` (P,) where
        the family reads it, and of the mask `labels` (H, W), or `mask_latent` (C, h, w), the encoded label map.
    sizes: of the samples; samples of equal sizes share a batch. Without it all latents must have one size.
    vae: encodes label maps with hidden classes, and those without a mask_latent; decodes the sheets.
    empty: `context` and `pooled` of the empty prompt; zeros without it.
    shown: what the sheets show instead of held-out samples, in one size: samples whose `latent` gives the size alone.
    """

    def __init__(self, settings: AdapterSettings, base: ModelPatcher, samples: Sequence[dict[str, Tensor]], *,
                 heldout: Sequence[dict[str, Tensor]] = (), sizes: Sequence | None = None, vae=None,
                 empty: dict[str, Tensor] | None = None, shown: Sequence[dict[str, Tensor]] = ()):
        check_window(settings.reduction, settings.window)
        self.settings = settings
        self.samples = samples
        self.heldout = heldout
        self.vae = vae
        self.empty = empty
        self.shown = shown
        self.base = base
        self.load()
        self.family = find_base_family(base)
        network = base.model.diffusion_model
        config = make_config(settings, self.family, network, len(samples))
        adapter = Adapter(config, make_new_terms(network, config, settings.layers, settings.seed))
        self.module = MaskedBase(base, adapter, settings.reduction, settings.guidance,
                                 settings.gradient_checkpointing, settings.shift)
        keys = [0] * len(samples) if sizes is None else [tuple(size) for size in sizes]
        self.batches = Batches(keys, settings.batch, settings.seed)
        self.blank: dict[torch.Size, Tensor] = {}
        self.check(samples[0])

    def load(self) -> None:
        """Gives the base all of the device's memory: the need of its activations is not known to the host."""
        comfy.model_management.load_models_gpu([self.base], ALL_MEMORY, force_full_load=True)

    def check(self, sample: dict[str, Tensor]) -> None:
        """Raises ValueError where the samples lack what the settings need."""
        if missing := {"latent", *self.family.text_layers} - set(sample):
            raise ValueError(f"data: the samples lack {', '.join(sorted(missing))}")
        if "mask_latent" not in sample and ("labels" not in sample or self.vae is None):
            raise ValueError("data: the samples have no mask_latent: add mask_latent, or labels and a VAE")
        drop = self.settings.drop
        if (drop.mask or drop.classes) and ("labels" not in sample or self.vae is None):
            raise ValueError("drop: hidden classes need the samples' labels and a VAE; set drop.mask and drop.classes "
                             "to 0 to train without")
        if (drop.mask or drop.classes) and self.settings.workers:
            raise ValueError("workers: label maps with hidden classes are encoded in the main process; set workers: 0")
        if REDUCTIONS[self.settings.reduction].merge and "labels" not in sample:
            raise ValueError("reduction: merging needs the samples' labels")

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        return make_optimizers(self.settings.optimiser, list(self.module.terms.parameters()), [])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings = self.settings
        index = self.batches(step, process, processes)
        rng = make_torch_rng(make_step_rng(settings.seed, step, process))
        samples = [choose_view(self.samples[i], rng, settings.mirror) for i in index.tolist()]
        return self.prepare(samples, rng, settings.drop)

    def prepare(self, samples: list[dict[str, Tensor]], rng: torch.Generator, drop: Drop) -> dict[str, Tensor]:
        """A batch of samples, with text and classes hidden at random."""
        batch = stack_tensors(samples, ("latent", "pooled", "labels", "mask_latent"))
        batch["context"] = stack_text(samples)
        silent = torch.rand(len(samples), generator=rng) < drop.text
        for name in self.family.text_layers:
            batch[name][silent] = self.make_empty_text(name, batch[name])
        if self.family.text_mask:
            batch["text_lengths"] = self.count_text(samples, silent)
        if "labels" in batch:
            self.hide(batch, rng, drop)
        return batch

    def count_text(self, samples: list[dict[str, Tensor]], silent: Tensor) -> Tensor:
        """How many text tokens of each sample count, (B,)."""
        lengths = torch.tensor([len(sample["context"]) for sample in samples])
        return lengths if self.empty is None else lengths.masked_fill(silent, len(self.empty["context"]))

    def make_empty_text(self, name: str, like: Tensor) -> Tensor:
        if self.empty is None:
            return torch.zeros_like(like[0])
        empty = self.empty[name].to(like)
        return fit_length(empty, like.shape[1]) if name == "context" else empty

    def hide(self, batch: dict[str, Tensor], rng: torch.Generator, drop: Drop) -> None:
        """Paints classes as background, and encodes the label maps that this changed."""
        labels = batch["labels"]
        hidden = torch.rand(len(labels), 256, generator=rng) < drop.classes
        hidden |= torch.rand(len(labels), 1, generator=rng) < drop.mask
        batch["labels"] = labels.masked_fill(hidden.gather(1, labels.flatten(1).long()).view_as(labels), 0)
        stale = (batch["labels"] != labels).flatten(1).any(1)
        if "mask_latent" not in batch:
            batch["mask_latent"] = torch.empty_like(batch["latent"])
            stale = torch.ones_like(stale)
        if stale.any():
            batch["mask_latent"][stale] = self.encode(batch["labels"][stale]).to(batch["mask_latent"])

    @torch.no_grad()
    def encode(self, labels: Tensor) -> Tensor:
        """Latents of label maps (B, H, W); the latent of a map without any class is computed once a size."""
        size = labels.shape[1:]
        painted = labels.flatten(1).any(1)
        if size not in self.blank:
            self.blank[size] = encode_pictures(self.vae, to_image(torch.zeros_like(labels[:1])))
        latents = self.blank[size].repeat(len(labels), 1, 1, 1)
        if painted.any():
            latents[painted] = encode_pictures(self.vae, to_image(labels[painted])).to(latents)
        return latents

    def make_clear_batch(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Samples on the module's device, with nothing hidden."""
        batch = self.prepare(samples, torch.Generator(), Drop(text=0, mask=0, classes=0))
        return {name: x.to(self.module.device) for name, x in batch.items()}

    def draw_sheet(self) -> np.ndarray | None:
        """Label maps and generated images of `shown`, or those and the true images of the first held-out samples.

        None without samples or VAE.
        """
        samples = self.shown or [self.heldout[i] for i in range(min(SHEET_COUNT, len(self.heldout)))]
        if not samples or self.vae is None or "labels" not in samples[0]:
            return None
        batch = self.make_clear_batch(samples)
        model = self.module.base.model
        sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "simple", SHEET_STEPS)
        sampled = scale_out(model, self.module.sample(**batch, sigmas=sigmas, seed=0))
        true = () if self.shown else (self.decode(batch["latent"]),)
        image = make_sheet(batch["labels"].cpu(), self.decode(sampled), *true)
        self.load()  # and takes the VAE away
        return image

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, H, W, 3) uint8."""
        images = decode_pictures(self.vae, latents.cpu()).clamp(0, 1)
        return (images * 255).round().to(torch.uint8).cpu()

    def measure(self) -> dict[str, float]:
        """The loss on held-out samples, with the mask and without. Each sample always has the same noise."""
        losses = {"heldout_loss": [], "heldout_loss_without_mask": []}
        for number in range(min(len(self.heldout), METRIC_COUNT)):
            batch = self.make_clear_batch([self.heldout[number]])
            for name, masked in zip(losses, (True, False)):
                rng = make_torch_rng(make_step_rng(self.settings.seed, number), self.module.device)
                losses[name].append(self.module(**batch, rng=rng, masked=masked).item())
        return {name: float(np.mean(values)) for name, values in losses.items() if values}

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """Writes the format that `load_adapter` reads; the file gets its name when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {name: w for name, w in weights.items() if name.startswith(PREFIX)}
        part = path.with_suffix(".part")
        save_file({make_own_key(name): w.contiguous() for name, w in named.items()}, part,
                  self.module.reader.adapter.config.to_metadata())
        part.replace(path)


def make_config(settings: AdapterSettings, family: Family, network: nn.Module, count: int) -> AdapterConfig:
    """The header of the adapter to train on `count` samples.

    Raises ValueError where the family cannot do what the settings ask for.
    """
    width, depth = family.measure(network)
    data = settings.data.name or "the data of a graph"
    config = AdapterConfig(family.key, width, depth, settings.rank, settings.alpha, PALETTE,
                           mask_vec=settings.mask_vec, text_reads_mask=settings.text_reads_mask,
                           base_hint=settings.base.name, window=settings.window,
                           trained_on=f"{data}: {count} samples, {settings.steps} steps of {settings.batch}")
    check_family(config)
    return config


def make_own_key(name: str) -> str:
    """`terms.double_0_qkv.down.weight` -> `double.0.qkv.down`."""
    term, part, _ = name.removeprefix(PREFIX).split(".")
    return f"{term.replace('_', '.')}.{part}"
