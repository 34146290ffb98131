"""A linear stand-in for a VAE: each patch of pixels as its principal components.

    python dev.py run -- python -m mdit.recipes.patches DATA FILE [--size 256] [--count 500]

fits it to the images of a data set. It replaces the host's VAE, needs no training and loses little, so that a small
base model can be trained on its latents from nothing.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..training.host import prepare_host

prepare_host()

from ..datasets import open_dataset
from ..training.patch_vae import PatchVAE


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.recipes.patches", description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help="a folder that the trainer reads")
    parser.add_argument("file", type=Path, help="the safetensors file to write")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels (default: 256)")
    parser.add_argument("--count", type=int, default=500, help="images to fit (default: 500)")
    options = parser.parse_args(arguments)
    faces = open_dataset(options.data, options.size)
    images = torch.stack([faces[i]["image"].movedim(0, -1) / 255 for i in range(min(options.count, len(faces)))])
    vae = PatchVAE.fit(images)
    vae.save(options.file)
    error = (vae.decode(vae.encode(images)) - images).square().mean().sqrt().item()
    print(f"wrote {options.file}: error of {len(images)} encoded and decoded images: {255 * error:.2f} of 255 (RMS)")


if __name__ == "__main__":
    main()
