"""A U-net that finds the 19 classes of a face, trained on renders (docs/design/bundled-model.md, section 3)."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..labelmap import CLASSES
from .agreement import measure_agreement

WEIGHTS = Path(__file__).with_name("weights") / "face-parser.safetensors"
SIZE = 128  # pixels along a side of the network's input
WIDTHS = (32, 64, 96, 128)
FOLD = 2  # pixels along a side that one position's channels hold


def make_convolutions(n_in: int, n_out: int, operations=nn) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with a normalization and a ReLU."""
    return nn.Sequential(
        operations.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
        operations.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class FaceParser(nn.Module):
    """Images (B, 3, 128, 128) in [-1, 1] -> logits (B, 19, 128, 128).

    operations: module of the convolutions' class; torch.nn for training.
    """

    def __init__(self, operations=nn):
        super().__init__()
        inputs = (3 * FOLD ** 2, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            make_convolutions(n_in, n_out, operations) for n_in, n_out in zip(inputs, WIDTHS))
        self.up = nn.ModuleList(
            make_convolutions(n_below + n_out, n_out, operations)
            for n_below, n_out in zip(WIDTHS[:0:-1], WIDTHS[-2::-1]))
        self.out = operations.Conv2d(WIDTHS[0], len(CLASSES) * FOLD ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down[0](F.pixel_unshuffle(x, FOLD))  # (B, 32, 64, 64)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:], mode="nearest"), skip], dim=1))
        return F.pixel_shuffle(self.out(x), FOLD)

    @torch.no_grad()
    def parse(self, image: np.ndarray) -> np.ndarray:
        """Label map (H, W) uint8 of an image (H, W, 3) uint8 of any size."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: the parser reads (H, W, 3) uint8, not {image.shape} {image.dtype}")
        weight = self.out.weight
        x = torch.from_numpy(np.ascontiguousarray(image)).to(weight.device).permute(2, 0, 1)[None].to(weight.dtype)
        x = F.interpolate(x / 127.5 - 1, (SIZE, SIZE), mode="bilinear", antialias=True)
        logits = F.interpolate(self(x), image.shape[:2], mode="bilinear")  # (1, 19, H, W)
        return logits[0].argmax(0).to(torch.uint8).cpu().numpy()

    def measure_agreement(self, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """How well an image (H, W, 3) uint8 follows the label map (H, W) that it was asked to follow.

        Compare with the same scores of true images: the parser makes errors, too.
        """
        if label.shape != image.shape[:2]:
            raise ValueError(f"label: the size {label.shape} is not the image's size {image.shape[:2]}; "
                             "resize the label map to the image with nearest sampling")
        return measure_agreement(self.parse(image), label)


def load_parser(path: Path = WEIGHTS) -> FaceParser:
    """The parser with the weights of a safetensors file, by default the bundled file, in evaluation mode."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no face parser at {path}: restore the pack's file, or train a parser with "
                                "python dev.py train mdit/recipes/configs/judge.yaml")
    parser = FaceParser()
    parser.load_state_dict(load_file(path))
    return parser.eval().requires_grad_(False)
