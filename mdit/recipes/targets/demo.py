"""The stand-alone model and its text encoder, trained on renders (docs/design/bundled-model.md, section 3)."""
from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn as nn
from pydantic import Field, field_validator, model_validator
from safetensors.torch import save_file
from torch import Tensor

import comfy.ops

from ...labelmap import CLASSES, PALETTE, resize_nearest
from ...mditface.attention import MaskRows
from ...mditface.config import MDiTConfig
from ...mditface.model import MIN_SIGMA, MDiT
from ...mditface.text import PAD, TextConfig, TextEncoder
from ...parsing import WEIGHTS as PARSER_WEIGHTS
from ...parsing import load_parser
from ...shared.weight_files import read_weights
from ...datasets import Renders
from ...datasets.augment import LabelNoise, normalize
from ...evaluation.metrics.agreement import average_scores
from ...training.data import make_step_rng, make_torch_rng
from ..exemplar import make_exemplar_keys, crop_randomly
from ..initialize import initialize_model, initialize_text, store_mask_modulation
from ..latents import PREFIX as CODER_PREFIX
from ..latents import Coder, EncodedRenders, carry_over
from ...training.optimizers import make_optimizers
from ...training.sampling import make_mask_inputs, make_sheet, sample, sample_latents
from ...training.settings import Positive, Section, Settings, Fraction
from ..words import CaptionWriter, pretrain, make_text_config
from ...training.targets.base import Batches, Target

MEAN_LOGIT_T = -0.5  # t = 1 - sigma is the sigmoid of a normal with this mean and deviation 1; see DemoSettings.noise
LOSS_SIGMA = 0.15    # below it the velocity error would weigh the last details too much
MASKED = -1e4
SHEET_COUNT = 12
METRIC_COUNT = 24
MASK_EMBED = "model.mask_embed.weight"
PREFIX = "model."
BLOCKS = ("blocks.", "exemplar.reads.")


class Drop(Section):
    """Fractions of the samples without text and without mask, independent of each other; and of the samples with a
    mask, the fraction without exemplar."""
    text: Fraction = 0.1
    mask: Fraction = 0.1
    exemplar: Fraction = 0.2


class DemoSettings(Settings):
    """Settings of a run of the bundled model.

    text_steps: length of the text encoder's lesson in attributes.
    text_rate: the text encoder's learning rate after the lesson.
    end_rate: the learning rate of the first and the last layer; by default that of all layers outside the blocks.
    coarse: fraction of the samples whose label map is first reduced (see LabelNoise).
    noise: mean of t's logit; the noise levels are 1 - t.
    init: a finished file to start from. A model on latents may start from one that draws pixels; it may have more
        blocks, which start as the identity.
    autoencoder: the file whose latents a model of latent format `autoencoder` draws.
    train: `all`, or the exemplar branch alone on the frozen weights of `init`.
    """
    heldout: Path
    model: MDiTConfig
    text_steps: Annotated[int, Field(ge=0)] = 300
    text_rate: Positive
    end_rate: Positive | None = None
    coarse: Fraction = 0.0
    drop: Drop = Drop()
    noise: float = MEAN_LOGIT_T
    init: Path | None = None
    autoencoder: Path | None = None
    train: Literal["all", "exemplar"] = "all"

    @field_validator("model", mode="before")
    @classmethod
    def check_fields(cls, values):
        if isinstance(values, dict) and (unknown := set(values) - {f.name for f in dataclasses.fields(MDiTConfig)}):
            raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
        return values

    @model_validator(mode="after")
    def check_trained_part(self):
        if self.train == "exemplar" and not (self.init and self.model.exemplar_blocks):
            raise ValueError("train: the exemplar branch alone needs exemplar_blocks under model, and a file at init")
        return self

    @model_validator(mode="after")
    def check_latents(self):
        if (self.model.latent_format == "autoencoder") != (self.autoencoder is not None):
            raise ValueError("autoencoder: give its file if, and only if, model.latent_format is 'autoencoder'")
        return self


class Demo(nn.Module):
    """The model with its text encoder; its state dict is the shipped file's."""

    def __init__(self, config: MDiTConfig, text: TextConfig, noise: float = MEAN_LOGIT_T):
        super().__init__()
        self.text_config = text
        self.noise = noise
        self.model = MDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        self.text_encoder = TextEncoder(text, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        initialize_model(self.model)
        initialize_text(self.text_encoder)

    @classmethod
    def load(cls, path: Path) -> Demo:
        """Reads what `save` wrote."""
        sd, config, text = read_file(path)
        demo = cls(config, text)
        demo.load_state_dict(sd)
        return demo.eval()

    def start_from(self, path: Path) -> None:
        """Takes over a file's weights. Coarser mask cells are divided (`divide_cells`), and an exemplar branch that the
        file lacks keeps its starting weights.

        Raises ValueError if the file's configuration has other differences.
        """
        own = self.model.config
        sd, config, text = read_file(path)
        sd, config = fit_modulation(sd, config, own)
        # A trained exemplar branch also reads the cells, and its weights are not divided here.
        if MASK_EMBED in sd and not config.exemplar_blocks and own.mask_cells % config.mask_cells == 0:
            sd[MASK_EMBED] = divide_cells(sd[MASK_EMBED], config.mask_cells, own.mask_cells)
            config = dataclasses.replace(config, mask_cells=own.mask_cells)
        config = dataclasses.replace(config, exemplar_blocks=config.exemplar_blocks or own.exemplar_blocks,
                                     exemplar_candidates=own.exemplar_candidates)
        if (config, text) != (own, self.text_config):
            raise ValueError(f"init: {path} has another configuration than 'model': copy the keys of its header")
        self.load_state_dict(self.state_dict() | sd)

    def save(self, path: Path, weights: dict[str, Tensor] | None = None, **metadata: str) -> None:
        """Writes these weights, by default its own, in half precision, with `metadata` and the configuration."""
        weights = self.state_dict() if weights is None else weights
        sd = {name.removeprefix(PREFIX): w.half().contiguous() for name, w in weights.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(sd, path, self.model.config.to_metadata() | self.text_config.to_metadata() | metadata)

    def forward(self, images: Tensor, labels: Tensor, ids: Tensor, read_mask: Tensor, rng: torch.Generator,
                exemplars: Tensor | None = None, exemplar_labels: Tensor | None = None,
                read_exemplar: Tensor | None = None) -> Tensor:
        """Mean squared velocity error of one step.

        images, exemplars: (B, 3, S, S) uint8, or latents (B, C, h, w); labels, exemplar_labels: (B, S, S) uint8;
        ids: (B, L); read_mask, read_exemplar: (B,) bool.
        """
        model = self.model
        images = normalize(images) if images.dtype == torch.uint8 else images  # (B, C, h, w)
        random = dict(generator=rng, device=images.device)
        sigma = 1 - torch.sigmoid(torch.randn(images.shape[0], **random) + self.noise)
        level = sigma.view(-1, 1, 1, 1)
        noisy = level * torch.randn(images.shape, **random) + (1 - level) * images
        tokens, positions = make_mask_inputs(labels, model, images.shape[-1] // model.config.patch)
        kv = list(model.run_static_path(tokens, positions))
        bias = torch.where(read_mask, 0.0, MASKED)[:, None].expand(-1, tokens.shape[1])
        exemplar = None
        if exemplars is not None:
            exemplar = make_exemplar_keys(model, labels, exemplars, exemplar_labels, read_exemplar.view(-1, 1, 1))
        context, y = self.text_encoder(ids)
        velocity = model(noisy, sigma, context, y, [MaskRows(slice(None), kv, bias, exemplar)]).float()
        clean = noisy - velocity * level.clamp(min=MIN_SIGMA)
        return ((clean - images) / level.clamp(min=LOSS_SIGMA)).square().mean()


def divide_cells(weight: Tensor, before: int, after: int) -> Tensor:
    """Weight (d, classes * before^2) for mask cells -> (d, classes * after^2) for finer cells.

    before, after: cells along a patch's side. Each fine cell gets an equal fraction of its coarse cell's weight, so the
    model is the same function until training changes it.
    """
    ratio = after // before
    cells = weight.view(len(weight), -1, before, 1, before, 1).expand(-1, -1, -1, ratio, -1, ratio)
    return cells.flatten(1) / ratio ** 2


def read_file(path: Path) -> tuple[dict[str, Tensor], MDiTConfig, TextConfig]:
    """The weights under Demo's names and the configuration of a file that `Demo.save` wrote."""
    weights, metadata = read_weights(str(path), "model")
    sd = {name if name.startswith("text_encoder.") else PREFIX + name: weight
          for name, weight in weights.items() if not name.startswith(CODER_PREFIX)}
    return sd, MDiTConfig.from_metadata(metadata), TextConfig.from_metadata(metadata)


def fit_modulation(sd: dict[str, Tensor], config: MDiTConfig, own: MDiTConfig) -> tuple[dict[str, Tensor], MDiTConfig]:
    """A file's weights and configuration, with a stored modulation of the mask stream if `own` has one."""
    if (config.mask_vec, own.mask_vec) == ("zero_pooled", "constant"):
        return store_mask_modulation(sd, config)
    return sd, config


def select_trained(weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """The weights that require gradients."""
    return [w for w in weights if w.requires_grad]


class DemoTarget(Target):
    """See base.Target."""

    def __init__(self, settings: DemoSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.coder = Coder(settings.autoencoder) if settings.autoencoder else None
        self.faces = self.open_renders(settings.data)
        self.heldout = self.open_renders(settings.heldout)
        self.check_resolution()
        text = make_text_config(settings.model.text_dim)
        self.module = Demo(dataclasses.replace(settings.model, palette=PALETTE), text, settings.noise)
        if settings.init:
            self.start_from(settings.init)
        if settings.train == "exemplar":
            self.module.requires_grad_(False)
            self.module.model.exemplar.requires_grad_(True)
        self.writer = CaptionWriter(text, settings.seed)
        self.noise = LabelNoise(coarse=settings.coarse)
        self.batches = Batches([0] * len(self.faces), settings.batch, settings.seed)

    def open_renders(self, folder: Path) -> Renders | EncodedRenders:
        return EncodedRenders(folder, self.coder) if self.coder else Renders(folder)

    def check_resolution(self) -> None:
        """Raises ValueError where the images have another side than the file will say."""
        for name, faces in (("data", self.faces), ("heldout", self.heldout)):
            side = faces.images.shape[1]
            if side != self.settings.model.resolution:
                raise ValueError(f"model.resolution: {self.settings.model.resolution}, but the images in "
                                 f"{getattr(self.settings, name)} have {side} pixels: set it to their side")

    def start_from(self, path: Path) -> None:
        own = self.module.model.config
        sd, config, _ = read_file(path)
        if (config.latent_format, own.latent_format) != ("pixel", "autoencoder"):
            self.module.start_from(path)
            return
        sd, config = fit_modulation(sd, config, own)
        sd = carry_over(sd, config.patch, self.faces, self.settings.data, own.patch)
        added = tuple(f"model.blocks.{i}." for i in range(config.depth, own.depth))  # each starts as the identity
        fresh = {name: w for name, w in self.module.state_dict().items() if name.startswith(added)}
        try:
            self.module.load_state_dict(fresh | sd)
        except RuntimeError as error:
            raise ValueError(f"init: {path} does not fit 'model' but for its latents: {error}") from error

    def start(self) -> None:
        if self.settings.text_steps:
            pretrain(self.module.text_encoder, self.writer, self.settings.text_steps)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for the rest."""
        settings = self.settings
        model = self.module.model
        encoder = self.module.text_encoder
        matrices = [w for name, w in model.named_parameters()
                    if w.ndim == 2 and name.startswith(BLOCKS) and ".mod." not in name]
        ends = [*model.x_embed.parameters(), *model.final.linear.parameters()]
        chosen = {id(w) for w in (*matrices, *ends)}
        rest = [w for w in model.parameters() if id(w) not in chosen]
        groups = [{"params": select_trained(rest)},
                  {"params": select_trained(ends), "lr": settings.end_rate or settings.optimiser.adamw},
                  {"params": select_trained(encoder.parameters()), "lr": settings.text_rate}]
        return make_optimizers(settings.optimiser, select_trained(matrices), groups)

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings = self.settings
        index = self.batches(step, process, processes)
        draws = make_step_rng(settings.seed, step, process)
        rng = make_torch_rng(draws)

        def draw_chance(p: float) -> Tensor:
            return torch.rand(settings.batch, generator=rng) < p

        images, labels = self.faces.get_batch(index, draw_chance(0.5))
        self.writer.rng = draws
        ids = self.writer([self.faces.attributes[i] for i in index.tolist()])
        ids[draw_chance(settings.drop.text)] = PAD
        batch = {"images": images, "labels": self.noise(labels, rng), "ids": ids,
                 "read_mask": ~draw_chance(settings.drop.mask)}
        if settings.model.exemplar_blocks:
            exemplars, exemplar_labels = crop_randomly(images, labels, rng)
            batch |= {"exemplars": exemplars, "exemplar_labels": exemplar_labels,
                      "read_exemplar": batch["read_mask"] & ~draw_chance(settings.drop.exemplar)}
        return batch

    def draw(self, count: int) -> Tensor:
        """Samples of the first held-out maps and captions, (count, S, S, 3) uint8."""
        labels = self.heldout.labels[:count]
        device = self.module.model.x_embed.weight.device
        ids = self.writer.encode(self.heldout.captions[:count])
        given = self.module.model, self.module.text_encoder, labels.to(device), ids.to(device)
        if self.coder is None:
            return sample(*given, seed=0).cpu()
        latents = sample_latents(*given, side=self.heldout.latents.shape[-1], seed=0).cpu()
        return torch.cat([self.coder.decode(latent[None]) for latent in latents])

    def draw_sheet(self) -> np.ndarray:
        return make_sheet(self.heldout.labels[:SHEET_COUNT], self.draw(SHEET_COUNT),
                             self.heldout.images[:SHEET_COUNT])

    def measure(self) -> dict[str, float]:
        """How well samples follow their maps, by the judge; empty without a trained judge."""
        if not PARSER_WEIGHTS.is_file():
            return {}
        parser = load_parser()
        images = self.draw(METRIC_COUNT)
        labels = resize_nearest(self.heldout.labels[:METRIC_COUNT], images.shape[1], images.shape[2])
        pairs = zip(images, labels)
        return average_scores([parser.measure_agreement(image.numpy(), label.numpy()) for image, label in pairs])

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        recipe = json.dumps(self.settings.describe_recipe(), sort_keys=True)
        header = {"mdit.recipe": hashlib.sha256(recipe.encode()).hexdigest(), "mdit.classes": json.dumps(CLASSES)}
        if self.coder:
            weights = weights | self.coder.weights
            header |= self.coder.header
        self.module.save(path, weights, **header)
