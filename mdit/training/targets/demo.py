"""The stand-alone model with its text encoder, trained from nothing on renders (bundled-model spec, section 3)."""
from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn as nn
from pydantic import Field, field_validator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import host  # noqa: F401  (before any other module of the host)
import comfy.ops

from ...labelmap import CLASSES, PALETTE
from ...mditface.attention import MaskRows
from ...mditface.config import MDiTConfig
from ...mditface.model import MIN_SIGMA, MDiT
from ...mditface.text import PAD, TextConfig, TextEncoder
from ...parsing import WEIGHTS as PARSER_WEIGHTS
from ...parsing import load_parser
from ..data import BatchOrder, Faces, LabelNoise, class_weights, mirror, normalise, step_rng, torch_rng
from ..initialise import initialise_model, initialise_text
from ..sampling import mask_inputs, sample, sheet_picture
from ..settings import Positive, Section, Settings, Share
from ..words import CaptionWriter, pretrain, text_config
from .base import make_optimisers

WEIGHTS = Path(__file__).parents[2] / "mditface" / "weights" / "mditface-demo.safetensors"
MEAN_LOGIT_T = -0.5  # t = 1 - sigma is the sigmoid of a normal with this mean and deviation 1
LOSS_SIGMA = 0.15    # below it the velocity error would weigh the last details too much
MASKED = -1e4
SHEET_COUNT, METRIC_COUNT = 12, 24
PREFIX = "model."
RECIPE = "mdit.recipe"  # metadata


class Drop(Section):
    """Shares of the samples that are shown without text, and without mask, independent of each other."""
    text: Share = 0.1
    mask: Share = 0.1


class DemoSettings(Settings):
    """`text_steps` is the length of the text encoder's first lesson, `text_rate` its learning rate after it; `rarity`
    is the power of a class's rarity in its pixels' weight. `start` is a finished file to go on from."""
    heldout: Path
    start: Path | None = None
    model: MDiTConfig
    text_steps: Annotated[int, Field(ge=0)] = 300
    text_rate: Positive
    rarity: Share = 0.0
    drop: Drop = Drop()

    @field_validator("model", mode="before")
    @classmethod
    def known_fields(cls, values):
        if isinstance(values, dict) and (unknown := set(values) - {f.name for f in dataclasses.fields(MDiTConfig)}):
            raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
        return values


class Demo(nn.Module):
    """The model with its text encoder; its state dict is the shipped file's. `weights` (256,) are those of each label's
    pixels in the loss."""

    def __init__(self, config: MDiTConfig, text: TextConfig, weights: Tensor | None = None):
        super().__init__()
        self.text_config = text
        self.register_buffer("weights", torch.ones(256) if weights is None else weights, persistent=False)
        self.model = MDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        self.text_encoder = TextEncoder(text, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        initialise_model(self.model)
        initialise_text(self.text_encoder)

    @classmethod
    def load(cls, path: Path) -> Demo:
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            sd = {name if name.startswith("text_encoder.") else PREFIX + name: file.get_tensor(name)
                  for name in file.keys()}
        demo = cls(MDiTConfig.from_metadata(metadata), TextConfig.from_metadata(metadata))
        demo.load_state_dict(sd)
        return demo.eval()

    def save(self, path: Path, weights: dict[str, Tensor] | None = None, **metadata: str) -> None:
        """Writes these weights, by default its own, in half precision, with `metadata` beside the configuration."""
        weights = self.state_dict() if weights is None else weights
        sd = {name.removeprefix(PREFIX): w.half().contiguous() for name, w in weights.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(sd, path, self.model.config.to_metadata() | self.text_config.to_metadata() | metadata)

    def forward(self, images: Tensor, labels: Tensor, ids: Tensor, read_mask: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared velocity error of one step, each pixel with its class's weight.

        images: (B, 3, S, S) uint8; labels: (B, S, S) uint8; ids: (B, L); read_mask: (B,) bool.
        """
        model, images = self.model, normalise(images)
        random = dict(generator=rng, device=images.device)
        sigma = 1 - torch.sigmoid(torch.randn(images.shape[0], **random) + MEAN_LOGIT_T)
        level = sigma.view(-1, 1, 1, 1)
        noisy = level * torch.randn(images.shape, **random) + (1 - level) * images
        tokens, places = mask_inputs(labels, model)
        kv = list(model.static_path(tokens, places))
        bias = torch.where(read_mask, 0.0, MASKED)[:, None].expand(-1, tokens.shape[1])
        context, y = self.text_encoder(ids)
        velocity = model(noisy, sigma, context, y, [MaskRows(slice(None), kv, bias)]).float()
        clean = noisy - velocity * level.clamp(min=MIN_SIGMA)
        error = ((clean - images) / level.clamp(min=LOSS_SIGMA)).square()  # (B, 3, S, S)
        return (error * self.weights[labels.long()][:, None]).mean()


class DemoTarget:
    """See base.Target."""

    def __init__(self, settings: DemoSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.faces, self.heldout = Faces(settings.data), Faces(settings.heldout)
        text = text_config(settings.model.text_dim)
        weights = torch.ones(256)  # hidden labels, too
        weights[:len(CLASSES)] = class_weights(self.faces.labels, settings.rarity)
        self.module = Demo(dataclasses.replace(settings.model, palette=PALETTE), text, weights)
        self.origin = None if settings.start is None else self.go_on_from(settings.start)
        self.writer, self.noise = CaptionWriter(text, settings.seed), LabelNoise()
        self.orders: dict[int, BatchOrder] = {}

    def go_on_from(self, path: Path) -> str:
        """Takes the weights of a finished file; returns the digest of its recipe."""
        if not path.is_file():
            raise FileNotFoundError(f"start: no file {path}; train it first, see docs/training.md")
        given = Demo.load(path)
        if (given.model.config, given.text_config) != (self.module.model.config, self.module.text_config):
            raise ValueError(f"start: {path} holds a model of another configuration: give the same values under 'model'")
        self.module.load_state_dict(given.state_dict())
        with safe_open(path, "pt") as file:
            return file.metadata()[RECIPE]

    def start(self) -> None:
        if self.settings.text_steps:
            pretrain(self.module.text_encoder, self.writer, self.settings.text_steps)

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the blocks, AdamW for the rest."""
        model, encoder = self.module.model, self.module.text_encoder
        matrices = [w for name, w in model.blocks.named_parameters() if w.ndim == 2 and ".mod." not in name]
        chosen = {id(w) for w in matrices}
        rest = [w for w in model.parameters() if id(w) not in chosen]
        return make_optimisers(self.settings.optimiser, matrices, [
            {"params": rest}, {"params": list(encoder.parameters()), "lr": self.settings.text_rate}])

    def batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings, size = self.settings, self.settings.batch
        order = self.orders.setdefault(processes, BatchOrder([0] * len(self.faces), size * processes, settings.seed))
        index = order(step)[process::processes]
        draws = step_rng(settings.seed, step, process)
        rng = torch_rng(draws)

        def chance(p: float) -> Tensor:
            return torch.rand(size, generator=rng) < p

        images, labels = mirror(self.faces.pictures(index), self.faces.labels[index], chance(0.5))
        self.writer.rng = draws
        ids = self.writer([self.faces.attributes[i] for i in index.tolist()])
        ids[chance(settings.drop.text)] = PAD
        return {"images": images, "labels": self.noise(labels, rng), "ids": ids,
                "read_mask": ~chance(settings.drop.mask)}

    def pictures(self, count: int) -> Tensor:
        """Samples of the first held-out maps and captions, (count, S, S, 3) uint8."""
        labels, device = self.heldout.labels[:count], self.module.model.x_embed.weight.device
        ids = self.writer.encode(self.heldout.captions[:count])
        return sample(self.module.model, self.module.text_encoder, labels.to(device), ids.to(device), seed=0).cpu()

    def sheet(self) -> np.ndarray:
        return sheet_picture(self.heldout.labels[:SHEET_COUNT], self.pictures(SHEET_COUNT),
                             self.heldout.images[:SHEET_COUNT])

    def metrics(self) -> dict[str, float]:
        """How well samples follow their maps, by the judge; empty without a trained one."""
        if not PARSER_WEIGHTS.is_file():
            return {}
        parser = load_parser()
        scores = [parser.agreement(picture.numpy(), label.numpy())
                  for picture, label in zip(self.pictures(METRIC_COUNT), self.heldout.labels)]
        return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        recipe = json.dumps(self.settings.recipe() | {"start": self.origin}, sort_keys=True)
        self.module.save(path, weights, **{RECIPE: hashlib.sha256(recipe.encode()).hexdigest(),
                                           "mdit.classes": json.dumps(CLASSES)})
