"""Renders as latents of the bundled autoencoder, and the start of a latent model from one that draws pixels
(docs/design/bundled-model.md, section 7)."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import comfy.model_management

from ..datasets.augment import normalize
from ..datasets.mapped import describe_shards
from ..datasets.renders import ARRAYS, find_shards, join, list_shards, read_shard
from ..labelmap import resize_nearest, swap_sides
from ..mditface.autoencoder import Autoencoder, AutoencoderConfig
from ..mditface.latents import LatentStatistics
from ..mditface.math import patchify
from ..shared.weight_files import read_weights

PREFIX = "vae."  # of the autoencoder's weights in a file
LABEL_SIDE = 256  # pixels: finer label maps would cost as much time as the network
INPUT_RIDGE = 0.05
OUTPUT_RIDGE = 0.002
FITTED_COUNT = 160  # images: 40 000 tokens
ENCODED_AT_ONCE = 8  # images, each with its mirror image


class Coder:
    """An autoencoder's file: images to standardized latents, and back, on the host's device. Results are on the CPU."""

    def __init__(self, path: Path):
        if not Path(path).is_file():
            raise FileNotFoundError(f"autoencoder: no file at {path}: train one with python dev.py train "
                                    "mdit/recipes/configs/autoencoder.yaml")
        weights, self.header = read_weights(str(path), "autoencoder")
        self.weights = {name: w for name, w in weights.items() if name.startswith(PREFIX)}
        statistics = LatentStatistics.from_metadata(self.header)
        self.device = comfy.model_management.get_torch_device()
        self.mean = torch.tensor(statistics.mean, device=self.device).view(-1, 1, 1)
        self.deviation = torch.tensor(statistics.deviation, device=self.device).view(-1, 1, 1)
        self.network = Autoencoder(AutoencoderConfig.from_metadata(self.header))
        self.network.load_state_dict({name.removeprefix(PREFIX): w for name, w in self.weights.items()})
        self.network.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) uint8 -> (B, C, S/r, S/r)."""
        return ((self.network.encode(normalize(images.to(self.device))) - self.mean) / self.deviation).cpu()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> images (B, S, S, 3) uint8."""
        images = self.network.decode(self.restore(latents)).clamp(-1, 1)
        return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    def restore(self, latents: Tensor) -> Tensor:
        """Standardized latents as the autoencoder has them, on its device."""
        return latents.to(self.device) * self.deviation + self.mean


class EncodedRenders:
    """All samples of a folder of shards, encoded as they are and mirrored.

    latents: (N, 2, C, h, w) float16. images: the first samples, (n, S, S, 3) uint8. labels: (N, s, s) uint8 with s at
    most LABEL_SIDE. captions, attributes: as Renders has them.
    The first use encodes each shard into a file beside it; an interrupted run resumes.
    """

    def __init__(self, folder: Path, coder: Coder, shown: int = 24):
        files = find_shards(folder)
        digest = hashlib.sha256(describe_shards(files).encode())
        for name in sorted(coder.weights):
            digest.update(coder.weights[name].contiguous().view(torch.uint8).numpy())
        cache = Path(folder) / f"latents-{digest.hexdigest()[:16]}"
        cache.mkdir(exist_ok=True)
        for file in tqdm(files, desc="encode", unit="shard", mininterval=5):
            if not (cache / file.name).exists():
                encode_shard(file, cache / file.name, coder)
        parts = [dict(np.load(cache / file.name)) for file in files]
        self.latents = torch.from_numpy(join(parts, "latents"))
        self.labels = torch.from_numpy(join(parts, "labels"))
        self.captions: list[str] = join(parts, "caption").tolist()
        self.attributes: list[dict[str, str]] = list(map(json.loads, join(parts, "attributes").tolist()))
        self.images = torch.from_numpy(read_shard(files[0])["image"][:shown])

    def __len__(self) -> int:
        return len(self.labels)

    def get_batch(self, index: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) and label maps (B, s, s) of samples, mirrored where the (B,) bools say so."""
        labels = self.labels[index].clone()
        labels[mirrored] = swap_sides(labels[mirrored].flip(-1))
        return self.latents[index, mirrored.long()].float(), labels


@torch.no_grad()
def encode_shard(file: Path, out: Path, coder: Coder) -> None:
    """Write a shard's latents, small label maps and texts; the file appears when it is complete."""
    shard = read_shard(file, (*ARRAYS, "attributes"))
    images = torch.from_numpy(shard["image"]).permute(0, 3, 1, 2)
    pairs = []
    for part in images.split(ENCODED_AT_ONCE):
        latents = coder.encode(torch.cat([part, part.flip(-1)]))  # (2 n, C, h, w)
        pairs.append(torch.stack(latents.chunk(2), 1).half())  # (n, 2, C, h, w)
    labels = torch.from_numpy(shard["label"])
    side = min(LABEL_SIDE, labels.shape[-1])
    scratch = out.with_suffix(".part")
    with open(scratch, "wb") as target:
        np.savez(target, latents=torch.cat(pairs).numpy(), labels=resize_nearest(labels, side, side).numpy(),
                 caption=shard["caption"], attributes=shard["attributes"])
    scratch.replace(out)


def fit_ridge(inputs: Tensor, outputs: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The weight (o, i) and bias (o,) that predict outputs (n, o) from inputs (n, i) with the least squared error.

    ridge: added to the diagonal of the inputs' mean product.
    """
    middle, target = inputs.mean(0), outputs.mean(0)
    centered = (inputs - middle).double()
    gram = centered.T @ centered / len(inputs) + ridge * torch.eye(inputs.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, centered.T @ (outputs - target).double() / len(inputs)).T.float()
    return weight, target - weight @ middle


@torch.no_grad()
def carry_over(sd: dict[str, Tensor], old_patch: int, faces: EncodedRenders, folder: Path, patch: int
               ) -> dict[str, Tensor]:
    """The weights of a model that draws pixels, for a model on latents with the same number of tokens.

    The first layer reads from latents what the old one read from the images' patches; the last layer writes the
    latents that stand for what the old one drew. All else stays.

    old_patch, patch: sides of a token of the two models, in pixels and in latent cells.
    folder: the shards of `faces`.
    """
    shards = [read_shard(file)["image"] for file in list_shards(folder)[:4]]
    images = torch.from_numpy(np.concatenate(shards)[:FITTED_COUNT])
    latents = faces.latents[:len(images), 0].float()
    side = latents.shape[-1] // patch * old_patch
    small = F.interpolate(normalize(images.permute(0, 3, 1, 2)), (side, side), mode="area")
    old = patchify(small, old_patch).flatten(0, 1)  # (n, 3 * old_patch^2)
    new = patchify(latents, patch).flatten(0, 1)  # (n, C * patch^2)
    embedded = old @ sd["model.x_embed.weight"].float().T + sd["model.x_embed.bias"].float()
    to_latent, shift = fit_ridge(old, new, OUTPUT_RIDGE)
    first_weight, first_bias = fit_ridge(new, embedded, INPUT_RIDGE)
    changed = {"model.x_embed.weight": first_weight, "model.x_embed.bias": first_bias,
               "model.final.linear.weight": to_latent @ sd["model.final.linear.weight"].float(),
               "model.final.linear.bias": to_latent @ sd["model.final.linear.bias"].float() + shift}
    return sd | changed
