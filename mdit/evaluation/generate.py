"""Pictures for a whole test set, by the host's own samplers, kept on disk as they are made."""
from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

import comfy.sd

from ..datasets import file_digest
from ..labelmap import CLASSES
from ..mditface import host
from ..mditface.adapter.reader import apply_adapter
from ..mditface.adapter.weights import load_adapter
from ..mditface.mask import CONDITIONING_KEY, MaskInput, MaskReference
from ..mditface.sample import require_mdit, sample
from ..mditface.reader import CacheOptions

NOISE_BLOCK = 64  # pictures that draw their noise from one seed, one after the other


@dataclass(frozen=True)
class Options:
    """How a picture is sampled; the names are those of the sampler and mask nodes' inputs."""
    steps: int = 20
    cfg: float = 1.5
    mask_cfg: float = 2.0
    seed: int = 42
    sampler_name: str = "euler"
    scheduler: str = "linear_quadratic"
    token_reduction: str = "off"


class Models(NamedTuple):
    """The host's MODEL that reads masks, CLIP and VAE."""
    model: Any
    clip: Any
    vae: Any

    @property
    def size(self) -> int | None:
        """Side in pixels of the pictures that the model was trained on, where its file tells it."""
        config = self.model.model.model_config.unet_config.get("config")
        return getattr(config, "resolution", None)


def load_models(model: Path, adapter: Path | None = None) -> Models:
    """A stand-alone MDiT file; with an adapter a whole checkpoint of SD3, SD3.5 or FLUX.

    Raises FileNotFoundError and ValueError, naming the file, for what is missing or does not fit.
    """
    for path in filter(None, (model, adapter)):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    if adapter is None:
        models = Models(*host.load(str(model)))
    else:
        patcher, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(model))
        models = Models(apply_adapter(patcher, load_adapter(str(adapter))), clip, vae)
    if models.clip is None or models.vae is None:
        raise ValueError(f"{model} holds no {'text encoder' if models.clip is None else 'VAE'}: "
                         "give a file with model, text encoder and VAE")
    require_mdit(models.model)
    return models


class Generator:
    """Draws faces of `size` pixels. A picture depends on its number, not on those that it is drawn with."""

    def __init__(self, models: Models, options: Options, size: int):
        self.models, self.options, self.size = models, options, size
        latent_format = models.model.model.latent_format
        side = size // latent_format.spacial_downscale_ratio
        self.latent = torch.zeros(1, latent_format.latent_channels, side, side)

    def encode(self, text: str) -> tuple[Tensor, dict]:
        """Text tokens (1, L, d) and what else the host's CLIP gives."""
        (tokens, extra), *_ = self.models.clip.encode_from_tokens_scheduled(self.models.clip.tokenize(text))
        return tokens, extra

    def __call__(self, labels: Tensor, captions: Sequence[str], numbers: Sequence[int]) -> Tensor:
        """Pictures (B, S, S, 3) uint8 of label maps (B, H, W) uint8 in a test set's order."""
        encoded = [self.encode(caption) for caption in captions]
        out = torch.empty(len(captions), self.size, self.size, 3, dtype=torch.uint8)
        groups = zip((number // NOISE_BLOCK for number in numbers), (tokens.shape[1] for tokens, _ in encoded))
        rows: dict[tuple[int, int], list[int]] = {}
        for row, group in enumerate(groups):  # one call of the sampler has one seed and one length of text
            rows.setdefault(group, []).append(row)
        for (block, _), chosen in rows.items():
            places = [numbers[row] % NOISE_BLOCK for row in chosen]
            out[chosen] = self.draw(labels[chosen], [encoded[row] for row in chosen], block, places)
        return out

    def draw(self, labels: Tensor, encoded: list[tuple[Tensor, dict]], block: int, places: list[int]) -> Tensor:
        """One call of the host's sampler: pictures (b, S, S, 3) uint8."""
        options = self.options
        mask = MaskInput(labels, torch.ones(len(CLASSES)), options.token_reduction, self.models.vae)
        extra = {name: torch.cat([e[name] for _, e in encoded]) for name, value in encoded[0][1].items()
                 if isinstance(value, Tensor)}
        positive = [[torch.cat([tokens for tokens, _ in encoded]), {**extra, CONDITIONING_KEY: MaskReference(mask)}]]
        latent = {"samples": self.latent.repeat(len(labels), 1, 1, 1), "batch_index": places}
        out, _ = sample(self.models.model, options.seed + block, options.steps, options.cfg, options.mask_cfg,
                        options.sampler_name, options.scheduler, positive, [list(self.encode(""))], latent, 1.0,
                        CacheOptions())
        pictures = self.models.vae.decode(out["samples"])  # (b, S, S, 3) in 0..1
        return (pictures * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def picture_folder(out: Path, files: Iterable[Path], source: str, size: int, options: Options) -> Path:
    """Where the pictures of these weights and options lie: others never mix with them."""
    key = {"files": [file_digest(path) for path in files], "source": source, "size": size, **asdict(options)}
    text = json.dumps(key, indent=1)
    folder = out / f"pictures-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(text + "\n")
    return folder


def picture_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.png"


def write_picture(path: Path, picture: Tensor) -> None:
    """Whole or not at all."""
    scratch = path.with_suffix(".part")
    Image.fromarray(picture.numpy()).save(scratch, "PNG")
    os.replace(scratch, path)


def fill_folder(folder: Path, samples: Iterable[tuple[int, dict]], generator: Generator, batch: int) -> None:
    """Draws the pictures that the folder lacks, of (number, sample) pairs as `read_samples` yields them."""
    missing = ((number, sample) for number, sample in samples if not picture_path(folder, number).exists())
    while chunk := list(itertools.islice(missing, batch)):
        numbers, faces = zip(*chunk)
        pictures = generator(torch.stack([face["labels"] for face in faces]), [face["caption"] for face in faces],
                             numbers)
        for number, picture in zip(numbers, pictures):
            write_picture(picture_path(folder, number), picture)
