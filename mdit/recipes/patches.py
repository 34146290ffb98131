"""A linear stand-in for a VAE: each patch of pixels as its principal components.

    python -m mdit.recipes.patches DATA FILE [--size 256] [--count 500]

fits one to the pictures of a data set. It encodes and decodes where the host's VAE does, needs no training, and loses
only what a few components cannot say, so that a small base model can be trained on it from nothing.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..training.host import prepare_host

prepare_host()

from ..datasets import open_dataset

PATCHES_KEY = "mdit.patches"
PATCH, CHANNELS = 8, 16  # of SD3's VAE
SPREAD = 0.65  # deviation of SD3's latents over all channels, which its latent format counts on


class PatchVAE:
    """Latents (B, 16, H / 8, W / 8) of pictures (B, H, W, 3) in 0..1, by an orthonormal basis of 8 x 8 patches.

    `basis` (16, 192) has the components in rows, `mean` is (192,). Each component is divided by `gain` (16,), the
    square root of its deviation: noise then hides the finer ones first, but not at once.
    """

    def __init__(self, mean: Tensor, basis: Tensor, gain: Tensor):
        self.mean, self.basis, self.gain = mean, basis, gain

    @classmethod
    def fit(cls, pictures: Tensor) -> PatchVAE:
        """The principal components of pictures (N, H, W, 3) in 0..1."""
        patches = unfold(pictures).flatten(0, 2)  # (N h w, 192)
        variance, vectors = torch.linalg.eigh(torch.cov(patches.T))
        deviation = variance[-CHANNELS:].flip(0).sqrt()
        gain = deviation.sqrt()
        return cls(patches.mean(0), vectors[:, -CHANNELS:].T.flip(0), gain * (deviation / gain).square().mean().sqrt()
                   / SPREAD)

    @classmethod
    def load(cls, path: Path) -> PatchVAE:
        with safe_open(path, "pt") as file:
            return cls(*(file.get_tensor(name) for name in ("mean", "basis", "gain")))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean, "basis": self.basis, "gain": self.gain}
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, {PATCHES_KEY: "1"})

    def encode(self, pictures: Tensor) -> Tensor:
        components = (unfold(pictures[..., :3]) - self.mean) @ self.basis.T  # (B, h, w, 16)
        return (components / self.gain).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        patches = (latents.movedim(1, -1) * self.gain) @ self.basis + self.mean  # (B, h, w, 192)
        return F.pixel_shuffle(patches.movedim(-1, 1), PATCH).movedim(1, -1).clamp(0, 1)


def unfold(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) -> patches (B, H / 8, W / 8, 192)."""
    return F.pixel_unshuffle(pictures.movedim(-1, 1), PATCH).movedim(1, -1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.recipes.patches", description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder that the trainer reads")
    parser.add_argument("file", type=Path, help="the safetensors file to write")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels (default: 256)")
    parser.add_argument("--count", type=int, default=500, help="pictures to fit it to (default: 500)")
    options = parser.parse_args(arguments)
    faces = open_dataset(options.data, options.size)
    pictures = torch.stack([faces[i]["image"].movedim(0, -1) / 255 for i in range(min(options.count, len(faces)))])
    vae = PatchVAE.fit(pictures)
    vae.save(options.file)
    error = (vae.decode(vae.encode(pictures)) - pictures).square().mean().sqrt().item()
    print(f"wrote {options.file}: {len(pictures)} pictures come back with an error of {255 * error:.2f} of 255 (RMS)")


if __name__ == "__main__":
    main()
