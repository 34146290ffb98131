"""DynaST's generator for faces, trained against a discriminator (docs/design/dynast.md, section 10)."""
from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import default_collate

from ...dynast.config import SMOOTH, TOP_K, DynaSTConfig
from ...training.data import make_step_rng
from ...datasets import open_faces
from ..dynast.discriminator import SMALLEST_IMAGE
from ..dynast.heldout import HeldOut
from ..dynast.network import Adversaries, LossWeights, save_generator
from ..dynast.pairs import Exemplars, Pairs, read_people
from ..dynast.vgg import VGG
from ...training.sampling import make_sheet
from ...training.settings import Count, Positive, Section, Settings, Fraction
from ...training.targets.base import Batches, Target

LABEL_CHANNELS = 15  # of a face's label
SHEET_COUNT = 12
METRIC_COUNT = 48
PREFIX = "generator."


class Adam(Section):
    """Learning rates and Adam's other numbers. clip: largest norm of the gradient; None does not clip."""
    generator: Positive = 1e-4
    discriminator: Positive = 1e-4
    betas: tuple[Fraction, Fraction] = (0.0, 0.9)
    generator_eps: Positive = 1e-3
    discriminator_eps: Positive = 1e-8
    clip: Positive | None = None


class Sizes(Section):
    """Sizes of the generator, as in DynaSTConfig."""
    ngf: Count = 64
    max_multi: Annotated[int, Field(ge=1, le=8)] = 8
    pos_dim: Count = 16
    prune_dim: Count = 16
    blocks: Count = 2
    top_k: Count = TOP_K
    smooth: Positive = SMOOTH


class DynaSTSettings(Settings):
    """Settings of a DynaST run.

    size: side of the images in pixels.
    load: side of the faces that the images are cut from.
    flip: fraction of mirrored images.
    vgg: a file of VGG-19. None leaves out the losses that need VGG.
    discriminator: width of the discriminator's first layer.

    Everything is computed in float32, because half precision selects other candidates (docs/design/dynast.md,
    section 8). There is no average of the weights, because spectral norm's vectors belong to the weights of one step.
    """
    size: Annotated[int, Field(ge=SMALLEST_IMAGE, multiple_of=8)] = 256
    load: Count = 286
    flip: Fraction = 0.5
    model: Sizes = Sizes()
    discriminator: Count = 64
    vgg: Path | None = None
    losses: LossWeights = LossWeights()
    exemplars: Exemplars = Exemplars()
    optimiser: Adam = Adam()
    precision: Literal["no"] = "no"
    ema: Literal[0] = 0


class DynaSTTarget(Target):
    """See base.Target."""

    def __init__(self, settings: DynaSTSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        if settings.load < settings.size:
            raise ValueError(f"load: faces of {settings.load} pixels hold no image of size {settings.size}: set load "
                             "to that or more")
        faces = open_faces(settings.data, settings.load)
        people = read_people(settings.data, faces.names) if settings.exemplars.person else ()
        self.pairs = Pairs(faces, settings.size, settings.exemplars, settings.flip, people)
        self.held = None
        if settings.heldout:
            self.held = HeldOut.take_first(open_faces(settings.heldout, settings.size), METRIC_COUNT)
        config = DynaSTConfig(LABEL_CHANNELS, size=settings.size, **settings.model.model_dump())
        vgg = VGG.load(settings.vgg) if settings.vgg else None
        if vgg is None:
            logging.info("no vgg: training without the losses reconstruction and perceptual")
        self.module = Adversaries(config, settings.discriminator, vgg, settings.losses)
        self.batches = Batches([0] * len(faces), settings.batch, settings.seed)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        rates = self.settings.optimiser
        return [torch.optim.Adam(self.module.generator.parameters(), rates.generator, rates.betas, rates.generator_eps),
                torch.optim.Adam(self.module.discriminator.parameters(), rates.discriminator, rates.betas,
                                 rates.discriminator_eps)]

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        rng = make_step_rng(self.settings.seed, step, process)
        index = self.batches(step, process, processes)
        return default_collate([self.pairs(i, rng) for i in index.tolist()])

    def draw_sheet(self) -> np.ndarray | None:
        """Maps, exemplars, warped exemplars and images of the first held-out faces; None without held-out faces."""
        if self.held is None:
            return None
        held = self.held
        exemplars = held.choose_exemplars(SHEET_COUNT)
        images, warped = held.draw(exemplars, self.module.synthesize)
        return make_sheet(held.labels[:len(exemplars)], held.images[exemplars].movedim(1, -1), warped, images)

    def measure(self) -> dict[str, float]:
        """Distances of colours to the exemplars' and to other faces' colours (ExemplarAgreement)."""
        if self.held is None:
            return {}
        exemplars = self.held.choose_exemplars(METRIC_COUNT)
        images, _ = self.held.draw(exemplars, self.module.synthesize)
        found = {}
        for part, figures in self.held.measure_agreement(images, exemplars).items():
            found |= {f"{part}/{name}": value for name, value in figures.items() if name != "count"}
        return found

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        save_generator(path, {name.removeprefix(PREFIX): w for name, w in weights.items() if name.startswith(PREFIX)})
