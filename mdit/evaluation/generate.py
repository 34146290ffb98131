"""Images for a whole test set, drawn by the host's samplers and kept on disk."""
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

from ..labelmap import CLASSES
from ..mditface import host
from ..mditface.adapter.reader import apply_adapter
from ..mditface.adapter.weights import load_adapter
from ..mditface.mask import MaskInput, MaskReference
from ..mditface.guidance import Guidance
from ..mditface.sample import require_mdit, sample
from ..training.bases import load_base
from ..shared.digests import add_value, compute_file_digest
from ..shared.masks import CONDITIONING_KEY

NOISE_BLOCK = 64  # images that take their noise from one seed, one after the other


@dataclass(frozen=True)
class Options:
    """How an image is sampled. The names are those of the inputs of the sampler and mask nodes."""
    steps: int = 20
    cfg: float = Guidance().text
    mask_cfg: float = Guidance().mask
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
        """Side in pixels of the training images. None if the model's file does not hold it."""
        config = self.model.model.model_config.unet_config.get("config")
        return getattr(config, "resolution", None)


def load_models(model: Path, adapter: Path | None = None, vae: Path | None = None, clip: tuple[Path, ...] = ()
                ) -> Models:
    """A stand-alone MDiT file; with an adapter a base of the host, and its VAE and text encoders if they lie apart.

    Raises FileNotFoundError for a missing file, ValueError, naming the file, for one that does not fit.
    """
    for path in filter(None, (model, adapter)):
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    if adapter is None:
        models = Models(*host.load_mdit(str(model)))
    else:
        patcher, base_vae, base_clip = load_base(model, vae, clip)
        models = Models(apply_adapter(patcher, load_adapter(str(adapter))), base_clip, base_vae)
    if models.clip is None or models.vae is None:
        raise ValueError(f"{model} holds no {'text encoder' if models.clip is None else 'VAE'}: "
                         "give a file with model, text encoder and VAE")
    require_mdit(models.model)
    return models


class Generator:
    """Draws faces of `size` pixels. An image depends on its own number alone, not on the rest of its batch."""

    def __init__(self, models: Models, options: Options, size: int):
        self.models = models
        self.options = options
        self.size = size
        latent_format = models.model.model.latent_format
        side = size // latent_format.spacial_downscale_ratio
        self.latent = torch.zeros(1, latent_format.latent_channels, side, side)

    def encode(self, text: str) -> tuple[Tensor, dict]:
        """Text tokens (1, L, d), and the other outputs of the host's CLIP."""
        (tokens, extra), *_ = self.models.clip.encode_from_tokens_scheduled(self.models.clip.tokenize(text))
        return tokens, extra

    def __call__(self, labels: Tensor, captions: Sequence[str], numbers: Sequence[int]) -> Tensor:
        """Images (B, S, S, 3) uint8 of label maps (B, H, W) uint8 with these numbers in the test set."""
        encoded = [self.encode(caption) for caption in captions]
        rows: dict[tuple[int, int], list[int]] = {}
        for row, (number, (tokens, _)) in enumerate(zip(numbers, encoded)):
            # One call of the sampler has one seed and one length of text.
            rows.setdefault((number // NOISE_BLOCK, tokens.shape[1]), []).append(row)
        out = torch.empty(len(captions), self.size, self.size, 3, dtype=torch.uint8)
        for (block, _), chosen in rows.items():
            indices = [numbers[row] % NOISE_BLOCK for row in chosen]
            out[chosen] = self.draw(labels[chosen], [encoded[row] for row in chosen], block, indices)
        return out

    def draw(self, labels: Tensor, encoded: list[tuple[Tensor, dict]], block: int, indices: list[int]) -> Tensor:
        """One call of the host's sampler: images (b, S, S, 3) uint8. indices: of the images in their noise block."""
        options = self.options
        mask = MaskInput(labels, torch.ones(len(CLASSES)), options.token_reduction, self.models.vae)
        tokens, extra = join_encoded(encoded)
        positive = [[tokens, {**extra, CONDITIONING_KEY: MaskReference(mask)}]]
        latent = {"samples": self.latent.repeat(len(labels), 1, 1, 1), "batch_index": indices}
        out, _ = sample(
            self.models.model, seed=options.seed + block, steps=options.steps,
            guidance=Guidance(options.cfg, options.mask_cfg), sampler_name=options.sampler_name,
            scheduler=options.scheduler, positive=positive, negative=[list(self.encode(""))], latent=latent)
        images = self.models.vae.decode(out["samples"])  # (b, S, S, 3) in 0..1
        return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def join_encoded(encoded: list[tuple[Tensor, dict]]) -> tuple[Tensor, dict]:
    """Encoded captions as one batch: tokens (b, L, d), and the tensors among the other outputs."""
    tokens = torch.cat([tokens for tokens, _ in encoded])
    extras = [extra for _, extra in encoded]
    joined = {}
    for name, value in extras[0].items():
        if isinstance(value, Tensor):
            joined[name] = torch.cat([extra[name] for extra in extras])
    return tokens, joined


def make_image_folder(out: Path, files: Iterable[Path], size: int, options: Options) -> Path:
    """The folder for images of these weights and these options alone."""
    key = {"files": [compute_file_digest(path) for path in files], "size": size, **asdict(options)}
    text = json.dumps(key, indent=1)
    folder = out / f"images-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(text + "\n")
    return folder


def make_image_path(folder: Path, number: int, sample: dict) -> Path:
    """The file of an image, known by what it is drawn from: number, label map and caption."""
    digest = hashlib.blake2b(digest_size=8)
    add_value(digest, (sample["labels"], sample["caption"]))
    return folder / f"{number:06d}-{digest.hexdigest()}.png"


def write_image(path: Path, image: Tensor) -> None:
    """The file appears when it is complete."""
    scratch = path.with_suffix(".part")
    Image.fromarray(image.numpy()).save(scratch, "PNG")
    os.replace(scratch, path)


def fill_folder(folder: Path, samples: Iterable[tuple[int, dict]], generator: Generator, batch: int) -> None:
    """Draws the images that the folder lacks, of (number, sample) pairs."""
    missing = ((number, face) for number, face in samples if not make_image_path(folder, number, face).exists())
    while chunk := list(itertools.islice(missing, batch)):
        numbers, faces = zip(*chunk)
        labels = torch.stack([face["labels"] for face in faces])
        images = generator(labels, [face["caption"] for face in faces], numbers)
        for number, face, image in zip(numbers, faces, images):
            write_image(make_image_path(folder, number, face), image)


def require_images(folder: Path, samples: Iterable[tuple[int, dict]]) -> None:
    """Raises ValueError where the folder lacks images of (number, sample) pairs."""
    missing = [number for number, face in samples if not make_image_path(folder, number, face).exists()]
    if missing:
        raise ValueError(f"gather: {len(missing)} images are not drawn yet, the first has the number {missing[0]}: "
                         "wait for the other machines, or draw their shares again")
