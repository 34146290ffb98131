"""The bundled model's decoder, trained further on latents that the finished model redraws
(docs/design/bundled-model.md, section 6.4)."""
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn as nn
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ...datasets.augment import normalize
from ...datasets.mapped import MappedRenders
from ...shared.digests import compute_file_digest
from ...shared.weight_files import read_state_dict
from ...training.data import make_step_rng
from ...training.flow import integrate
from ...training.optimizers import make_optimizers
from ...training.sampling import make_guided_velocity
from ...training.settings import Count
from ...training.targets.base import Batches, Target
from ..latents import PREFIX as FILE_PREFIX
from ..latents import Coder, EncodedRenders
from ..words import CaptionWriter
from .autoencoder import (
    METRIC_COUNT, SHEET_COUNT, CropSettings, Perception, compare_images, measure_psnr, reconstruct, stack_images)
from .demo import Demo

PREFIX = "autoencoder."
REDRAWN_AT_ONCE = 10  # images
PIXEL_WEIGHT = 0.5  # of the terms that compare pixels: the features are to decide


class PolishSettings(CropSettings):
    """Settings of a run.

    model: the finished file. All but its decoder stays as it is.
    redrawn: training images that the model redraws.
    level: noise level from which it does so.
    levels: Euler steps from there.
    clean: fraction of the crops with the latents of the image itself.
    """
    model: Path
    redrawn: Count = 400
    level: Annotated[float, Field(gt=0, lt=1)] = 0.5
    levels: Count = 6
    clean: Annotated[float, Field(ge=0, lt=1)] = 0.5
    perceptual: Annotated[float, Field(ge=0)] = 0.5


class DecoderLoss(nn.Module):
    """The autoencoder with the loss of its decoder; the encoder is frozen."""

    def __init__(self, coder: Coder, perceptual: float):
        super().__init__()
        self.autoencoder = coder.network
        self.autoencoder.decoder.requires_grad_(True)
        self.perceptual = perceptual
        self.perception = Perception() if perceptual else None

    def forward(self, latents: Tensor, images: Tensor, labels: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss for latents (B, C, h, w) of crops (B, 3, S, S) uint8 with labels (B, S, S)."""
        made = self.autoencoder.decode(latents).float()
        true = normalize(images)
        terms = {name: PIXEL_WEIGHT * term for name, term in compare_images(made, true, labels).items()}
        if self.perception is not None:
            terms["perceptual"] = self.perceptual * self.perception(made, true)
        return terms


class PolishTarget(Target):
    """See base.Target."""

    def __init__(self, settings: PolishSettings):
        torch.manual_seed(settings.seed)
        self.settings = settings
        if not settings.model.is_file():
            raise FileNotFoundError(f"model: no file at {settings.model}: train one with python dev.py train "
                                    "mdit/recipes/configs/demo-latent.yaml")
        coder = Coder(settings.model)
        self.header = coder.header
        self.faces = MappedRenders(settings.data)
        self.heldout = MappedRenders(settings.heldout)
        encoded = EncodedRenders(settings.data, coder)
        clean = encoded.latents[:settings.redrawn, 0].float()
        redrawn = self.redraw(encoded, clean, coder)
        self.latents = torch.stack([coder.restore(x).cpu() for x in (clean, redrawn)])  # (2, N, C, h, w)
        self.module = DecoderLoss(coder, settings.perceptual)
        self.batches = Batches([0] * len(clean), settings.batch, settings.seed)

    def redraw(self, encoded: EncodedRenders, clean: Tensor, coder: Coder) -> Tensor:
        """What the model makes of noisy latents `clean` (N, C, h, w) by their own maps and captions.

        Each part is kept in a file, so an interrupted run resumes.
        """
        settings = self.settings
        demo = Demo.load(settings.model).to(coder.device)
        writer = CaptionWriter(demo.text_config, settings.seed)
        key = f"{compute_file_digest(settings.model)[:16]}-{settings.level}-{settings.levels}-{settings.seed}"
        folder = settings.output / f"redrawn-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        parts = []
        for start in tqdm(range(0, len(clean), REDRAWN_AT_ONCE), "redraw", mininterval=5):
            part = slice(start, min(start + REDRAWN_AT_ONCE, len(clean)))
            file = folder / f"{part.start:05d}-{part.stop:05d}.safetensors"
            if not file.exists():
                ids = writer.encode(encoded.captions[part])
                drawn = redraw_latents(demo, encoded.labels[part], ids, clean[part], settings=settings, number=start)
                save_file({"latents": drawn}, file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)
            parts.append(read_state_dict(str(file), "output")["latents"])
        return torch.cat(parts)

    def build_optimizers(self) -> list[torch.optim.Optimizer]:
        weights = list(self.module.autoencoder.decoder.parameters())
        return make_optimizers(self.settings.optimiser, [], [{"params": weights}])

    def make_batch(self, step: int, process: int, processes: int) -> dict[str, Tensor]:
        settings = self.settings
        draws = make_step_rng(settings.seed, step, process)
        ratio = self.module.autoencoder.config.ratio
        cells = settings.crop // ratio
        crops = []
        for i in self.batches(step, process, processes).tolist():
            row, column = (x // ratio for x in settings.place_crop(self.faces.labels[i], settings.crop, draws))
            kind = int(draws.random() >= settings.clean)
            latents = self.latents[kind, i, :, row:row + cells, column:column + cells]
            crops.append((latents, *self.faces.crop(i, row * ratio, column * ratio, settings.crop)))
        latents, images, labels = (torch.stack(parts) for parts in zip(*crops))
        return {"latents": latents, "images": images, "labels": labels}

    @torch.no_grad()
    def decode_redrawn(self, count: int) -> np.ndarray:
        """Images (count, S, S, 3) uint8 of the first redrawn latents."""
        network = self.module.autoencoder
        device = next(network.parameters()).device
        made = torch.cat([network.decode(x[None].to(device)).float().cpu() for x in self.latents[1, :count]])
        return ((made.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def draw_sheet(self) -> np.ndarray:
        """Training images above what the model and the decoder make of them."""
        return stack_images(self.faces.images[:SHEET_COUNT], self.decode_redrawn(SHEET_COUNT))

    def measure(self) -> dict[str, float]:
        """Decibels of held-out images after encoding and decoding, and of redrawn training images."""
        true = self.heldout.images[:METRIC_COUNT]
        redrawn = self.decode_redrawn(METRIC_COUNT)
        return {"psnr": measure_psnr(reconstruct(self.module.autoencoder, true), true),
                "psnr/redrawn": measure_psnr(redrawn, self.faces.images[:len(redrawn)])}

    def save(self, path: Path, weights: dict[str, Tensor]) -> None:
        """The model's file with the new decoder."""
        sd = read_state_dict(str(self.settings.model), "model")
        for name, w in weights.items():
            if name.startswith(f"{PREFIX}decoder."):
                sd[FILE_PREFIX + name.removeprefix(PREFIX)] = w.half().contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(sd, path, self.header)


@torch.no_grad()
def redraw_latents(demo: Demo, labels: Tensor, ids: Tensor, clean: Tensor, *, settings: PolishSettings, number: int
                   ) -> Tensor:
    """Latents like `clean` (B, C, h, w), with noise, drawn again, on the CPU.

    labels: (B, s, s). ids: (B, L). number: with the seed, decides the noise.
    """
    device = next(demo.parameters()).device
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(settings.seed + number))
    noisy = torch.lerp(clean, noise, settings.level).to(device)
    velocity = make_guided_velocity(demo.model, demo.text_encoder, labels.to(device), ids.to(device), clean.shape[-1])
    return integrate(velocity, noisy, torch.linspace(settings.level, 0, settings.levels + 1)).cpu()
