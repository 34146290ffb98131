"""The bundled model's autoencoder: images to latents of a sixteenth of their sides, and back
(docs/design/bundled-model.md, section 6)."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..shared.text_files import read_header

CONFIG_KEY = "mdit.autoencoder"
FOLD = 2  # pixels along a side that one position's channels hold, before the encoder and after the decoder


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder.

    channels: of a latent.
    encoder, decoder: width and number of residual blocks of each level, in the order in which they are run. From one
        level to the next, sides are halved or doubled.
    """
    channels: int = 16
    encoder: tuple[tuple[int, int], ...] = ((24, 1), (48, 1), (96, 1), (128, 2))
    decoder: tuple[tuple[int, int], ...] = ((160, 2), (96, 3), (64, 3), (32, 2))

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        if not self.encoder or len(self.encoder) != len(self.decoder):
            raise ValueError(f"{CONFIG_KEY}: the encoder has {len(self.encoder)} levels, the decoder "
                             f"{len(self.decoder)}; they must have as many")

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return sum(count for _, count in (*self.encoder, *self.decoder))

    @property
    def ratio(self) -> int:
        """Pixels along a side of a latent cell."""
        return FOLD * 2 ** (len(self.encoder) - 1)

    def to_metadata(self) -> dict[str, str]:
        return {CONFIG_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> AutoencoderConfig:
        """Raises ValueError for a header without an autoencoder, or with unknown fields."""
        return read_header(cls, metadata, CONFIG_KEY)


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), the identity at the start of training."""

    def __init__(self, width: int, operations=nn, **factory):
        super().__init__()
        self.first = operations.Conv2d(width, width, 3, padding=1, **factory)
        self.second = operations.Conv2d(width, width, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Down(nn.Module):
    """Halves the sides."""

    def __init__(self, n_in: int, n_out: int, operations=nn, **factory):
        super().__init__()
        self.mix = operations.Conv2d(4 * n_in, n_out, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.pixel_unshuffle(x, 2))


class Up(nn.Module):
    """Doubles the sides."""

    def __init__(self, n_in: int, n_out: int, operations=nn, **factory):
        super().__init__()
        self.mix = operations.Conv2d(n_in, 4 * n_out, 1, **factory)
        self.spread = operations.Conv2d(n_in, 4 * n_out, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mix(x) + self.spread(F.silu(x)), 2)


def stack_levels(levels: Iterable[tuple[int, int]], change: type[Down] | type[Up], **factory) -> list[nn.Module]:
    """The residual blocks of each level, with a change of the sides between two levels."""
    modules = []
    before = None
    for width, blocks in levels:
        if before:
            modules.append(change(before, width, **factory))
        modules += [Residual(width, **factory) for _ in range(blocks)]
        before = width
    return modules


class Autoencoder(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] <-> latents (B, C, H/r, W/r), with r the configuration's ratio.

    H and W are multiples of r; nothing else depends on the size of the image.

    operations: module of the layers' classes.
    """

    def __init__(self, config: AutoencoderConfig, operations=nn, **factory):
        super().__init__()
        self.config = config
        factory["operations"] = operations
        folded = 3 * FOLD ** 2
        first, last = config.encoder[0][0], config.encoder[-1][0]
        self.encoder = nn.Sequential(
            self.convolve(folded, first, **factory), *stack_levels(config.encoder, Down, **factory),
            self.convolve(last, config.channels, 1, **factory))
        first, last = config.decoder[0][0], config.decoder[-1][0]
        self.decoder = nn.Sequential(
            self.convolve(config.channels, first, **factory), *stack_levels(config.decoder, Up, **factory),
            self.convolve(last, folded, **factory))

    @staticmethod
    def convolve(n_in: int, n_out: int, side: int = 3, operations=nn, **factory) -> nn.Module:
        return operations.Conv2d(n_in, n_out, side, padding=side // 2, **factory)

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(F.pixel_unshuffle(images, FOLD))  # (B, C, H/r, W/r)

    def decode(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(self.decoder(latents), FOLD)  # (B, 3, H, W)

    def initialize(self) -> None:
        """Starting weights: what a residual block or the 3 x 3 part of an Up adds is zero."""
        for module in self.modules():
            if isinstance(module, (Residual, Up)):
                last = module.second if isinstance(module, Residual) else module.spread
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
