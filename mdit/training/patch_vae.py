"""A linear stand-in for a VAE: each patch of pixels as its principal components."""
from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ..shared.weight_files import name_file, read_state_dict

CELL = 8  # pixels along a latent cell's side
CHANNELS = 16
PATCHES_KEY = "mdit.patches"
SPREAD = 0.65  # deviation of SD3's latents over all channels, as its latent format expects


class PatchVAE:
    """Latents (B, 16, H / 8, W / 8) of images (B, H, W, 3) in 0..1, by an orthonormal basis of 8 x 8 patches.

    mean: (192,).
    basis: the components in rows, (16, 192).
    gain: divides each component, (16,). It is the square root of the component's deviation: noise hides the finer
        components first, but not at once.
    """

    def __init__(self, mean: Tensor, basis: Tensor, gain: Tensor):
        self.mean = mean
        self.basis = basis
        self.gain = gain

    @classmethod
    def fit(cls, images: Tensor) -> PatchVAE:
        """The principal components of images (N, H, W, 3) in 0..1."""
        patches = unfold(images).flatten(0, 2)  # (N h w, 192)
        variance, vectors = torch.linalg.eigh(torch.cov(patches.T))
        deviation = variance[-CHANNELS:].flip(0).sqrt()
        gain = deviation.sqrt()
        basis = vectors[:, -CHANNELS:].T.flip(0)
        return cls(patches.mean(0), basis, gain * (deviation / gain).square().mean().sqrt() / SPREAD)

    @classmethod
    def load(cls, path: Path) -> PatchVAE:
        with name_file(str(path), "vae"):
            return cls(**read_state_dict(str(path), "vae"))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean, "basis": self.basis, "gain": self.gain}
        save_file({name: x.contiguous() for name, x in tensors.items()}, path, {PATCHES_KEY: "1"})

    def encode(self, images: Tensor) -> Tensor:
        components = (unfold(images[..., :3]) - self.mean) @ self.basis.T  # (B, h, w, 16)
        return (components / self.gain).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        patches = (latents.movedim(1, -1) * self.gain) @ self.basis + self.mean  # (B, h, w, 192)
        return F.pixel_shuffle(patches.movedim(-1, 1), CELL).movedim(1, -1).clamp(0, 1)


def unfold(images: Tensor) -> Tensor:
    """(B, H, W, 3) -> patches (B, H / 8, W / 8, 192)."""
    return F.pixel_unshuffle(images.movedim(-1, 1), CELL).movedim(1, -1)
