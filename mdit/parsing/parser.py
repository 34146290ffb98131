"""A U-net that finds the 19 classes of a face, trained on renders (docs/design/bundled-model.md, section 3)."""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..labelmap import CLASSES
from ..shared.text_files import read_header
from .agreement import measure_agreement

WEIGHTS = Path(__file__).with_name("weights") / "face-parser.safetensors"
CONFIG_KEY = "mdit.parser"  # of a file's header
FOLD = 2  # pixels along a side that one position's channels hold


@dataclass(frozen=True)
class ParserConfig:
    """Sizes of a parser. The defaults are those of files without a header.

    size: pixels along a side of the network's input.
    widths: of the levels; from one to the next, sides are halved.
    """
    size: int = 128
    widths: tuple[int, ...] = (32, 64, 96, 128)

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        multiple = FOLD * 2 ** (len(self.widths) - 1)
        if len(self.widths) < 2 or min(self.widths) < 1 or self.size < 1 or self.size % multiple:
            raise ValueError(f"{CONFIG_KEY}: size {self.size} with widths {list(self.widths)}: there must be at least "
                             f"two positive widths, and {multiple} must divide the size")

    def to_metadata(self) -> dict[str, str]:
        return {CONFIG_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> ParserConfig:
        """The sizes in a file's header. Raises ValueError for a header with others than these two."""
        return read_header(cls, metadata, CONFIG_KEY) if CONFIG_KEY in metadata else cls()


def make_convolutions(n_in: int, n_out: int, operations=nn) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with a normalization and a ReLU."""
    return nn.Sequential(
        operations.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(),
        operations.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU())


class FaceParser(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> logits (B, 19, S, S), S the configuration's size.

    operations: module of the convolutions' class; torch.nn for training.
    """

    def __init__(self, config: ParserConfig = ParserConfig(), operations=nn):
        super().__init__()
        self.config = config
        widths = config.widths
        inputs = (3 * FOLD ** 2, *widths[:-1])
        self.down = nn.ModuleList(
            make_convolutions(n_in, n_out, operations) for n_in, n_out in zip(inputs, widths))
        self.up = nn.ModuleList(
            make_convolutions(n_below + n_out, n_out, operations)
            for n_below, n_out in zip(widths[:0:-1], widths[-2::-1]))
        self.out = operations.Conv2d(widths[0], len(CLASSES) * FOLD ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = self.descend(x)
        x = levels.pop()
        for block in self.up:
            skip = levels.pop()
            x = block(torch.cat([F.interpolate(x, skip.shape[-2:], mode="nearest"), skip], dim=1))
        return F.pixel_shuffle(self.out(x), FOLD)

    def descend(self, x: Tensor) -> list[Tensor]:
        """What each level makes of the input, (B, width, h, w); the finest first."""
        levels = [self.down[0](F.pixel_unshuffle(x, FOLD))]  # (B, widths[0], S / 2, S / 2)
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        return levels

    def read_image(self, image: np.ndarray) -> Tensor:
        """The network's input (1, 3, S, S) for an image (H, W, 3) uint8 of any size."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image: the parser reads (H, W, 3) uint8, not {image.shape} {image.dtype}")
        weight = self.out.weight
        x = torch.from_numpy(np.ascontiguousarray(image)).to(weight.device).permute(2, 0, 1)[None].to(weight.dtype)
        return F.interpolate(x / 127.5 - 1, (self.config.size,) * 2, mode="bilinear", antialias=True)

    @torch.no_grad()
    def describe(self, image: np.ndarray) -> Tensor:
        """Features of an image (H, W, 3) uint8: each level's means over the image, (sum of the widths,)."""
        return torch.cat([x.mean((0, 2, 3)) for x in self.descend(self.read_image(image))]).cpu()

    @torch.no_grad()
    def parse(self, image: np.ndarray) -> np.ndarray:
        """Label map (H, W) uint8 of an image (H, W, 3) uint8 of any size."""
        logits = F.interpolate(self(self.read_image(image)), image.shape[:2], mode="bilinear")  # (1, 19, H, W)
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
    with safe_open(path, "pt") as file:
        parser = FaceParser(ParserConfig.from_metadata(file.metadata() or {}))
    parser.load_state_dict(load_file(path))
    return parser.eval().requires_grad_(False)
