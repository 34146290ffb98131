"""Sizes of a PT-DiT: from the shapes of its weights and, where shapes are not enough, from a JSON file.

See docs/design/pt-dit.md, sections 1 and 2.
"""
from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..shared.text_files import build_config, parse_object, read_header, read_text
from ..shared.weight_files import read_shape
from ..shared.windows import Grid3D

PUBLISHED_HEAD_DIM = 72
LARGEST_SAMPLE = 127  # from 128 on, positions are interpolated and the size is a condition: another network
MARKS = ("transformer_blocks.0.proxy_attn1.to_q.weight", "pos_embed.proj.weight")
SAVED_KEY = "pt_dit_config"
POSITIONS = ("reference", "rowcol")
LONGEST_WINDOW = 1024  # tokens along a side: all of the largest image


@dataclass(frozen=True)
class PTDiTSettings:
    """What the weights leave open. Raises ValueError for windows out of range and proxies that do not divide them.

    window: its sides in tokens (frames, rows, columns).
    proxies: proxies of a window along its rows and columns.
    positions: which of the two position tables (docs/design/pt-dit.md, section 4).
    """
    window: Grid3D = (1, 8, 8)
    proxies: tuple[int, int] = (1, 1)
    positions: str = "reference"

    def __post_init__(self):
        if not all(0 < side <= LONGEST_WINDOW for side in self.window) or self.positions not in POSITIONS:
            raise ValueError(f"window: it has {self.window} tokens and positions {self.positions}: each side has 1 to "
                             f"{LONGEST_WINDOW}, positions are {' or '.join(POSITIONS)}; choose others")
        for name, side, count in zip(("rows", "columns"), self.window[1:], self.proxies):
            if count < 1 or side % count:
                divisors = ", ".join(str(n) for n in range(1, side + 1) if side % n == 0)
                raise ValueError(f"proxy_{name}: {count} does not divide the window's {side} {name}: choose one of "
                                 f"{divisors}")


@dataclass(frozen=True)
class PTDiTConfig:
    """Sizes of the network. `caption`: width of the text tokens. `settings`: used unless the user sets others."""
    width: int
    depth: int
    heads: int
    caption: int
    in_channels: int = 4
    out_channels: int = 8
    patch: int = 2
    settings: PTDiTSettings = PTDiTSettings()

    def to_header(self) -> dict[str, str]:
        """The header of a file that the host saved."""
        return {SAVED_KEY: json.dumps(dataclasses.asdict(self))}

    @classmethod
    def from_header(cls, header: dict[str, str]) -> PTDiTConfig:
        """Inverse of `to_header`. Raises ValueError for another header."""
        return read_header(cls, header, SAVED_KEY)


@dataclass(frozen=True)
class PublishedFields:
    """What we read of a configuration in the authors' form; 0 and () where it says nothing."""
    num_heads: int = 0
    num_attention_heads: int = 0  # in older files
    head_dim: int = 0
    attention_head_dim: int = 0
    sample_size: int = 0
    compress_ratios: tuple[int, int, int] | tuple[()] = ()
    proxy_compress_ratios: tuple[int, int, int] | tuple[()] = ()


def read_config(weights: dict[str, Tensor], path: str) -> PTDiTConfig:
    """Reads the sizes from the weights at `path` and from `<name>.json` or `config.json` next to them.

    Raises ValueError, without the name of the file, for weights that are no PT-DiT or that the JSON contradicts.
    """
    if not all(mark in weights for mark in MARKS):
        raise ValueError("it holds no PT-DiT weights (no " + " and ".join(MARKS) + "): load PixArt and other models "
                         "with the host's own loaders")
    width, channels, patch, _ = read_shape(weights, "pos_embed.proj.weight", 4)
    fields = read_json(Path(path))
    heads, head_dim = read_heads(fields, width)
    if width != heads * head_dim:
        raise ValueError(f"its width {width} is not {heads} heads of {head_dim}, and the shapes do not give the heads: "
                         "put its config.json, with num_heads and head_dim, into the same folder")
    if fields.sample_size > LARGEST_SAMPLE:
        raise ValueError(f"its sample_size {fields.sample_size} is above {LARGEST_SAMPLE}: such a network reads the "
                         "size of the image, which is not supported; take the 1024 px model")
    depth = len({key.split(".")[1] for key in weights if key.startswith("transformer_blocks.")})
    caption = read_shape(weights, "caption_projection.linear_1.weight", 2)[1]
    out_channels = read_shape(weights, "proj_out.weight", 2)[0] // patch ** 2
    return PTDiTConfig(width=width, depth=depth, heads=heads, caption=caption, in_channels=channels,
                       out_channels=out_channels, patch=patch, settings=read_settings(fields))


def read_heads(fields: PublishedFields, width: int) -> tuple[int, int]:
    """The number of heads and the width of one; without fields as published."""
    heads = fields.num_heads or fields.num_attention_heads
    head_dim = fields.head_dim or fields.attention_head_dim
    head_dim = head_dim or (width // heads if heads else PUBLISHED_HEAD_DIM)
    return heads or width // head_dim, head_dim


def read_json(path: Path) -> PublishedFields:
    """The object `predictor` of a configuration in the authors' form, or all of it; empty if there is none."""
    file = next(filter(Path.is_file, (path.with_suffix(".json"), path.with_name("config.json"))), None)
    if file is None:
        return PublishedFields()
    name = f"the configuration '{file}' next to it"
    found = parse_object(read_text(file), name)
    fields = found.get("predictor", found)
    if not isinstance(fields, dict) or not ("compress_ratios" in fields or "num_heads" in fields):
        return PublishedFields()
    known = {field.name for field in dataclasses.fields(PublishedFields)}
    fields = {key: value for key, value in fields.items() if key in known and value is not None}
    return build_config(PublishedFields, fields, name)


def read_settings(fields: PublishedFields) -> PTDiTSettings:
    """The windows of a configuration, which gives the sides of the region of a proxy, not the number of proxies."""
    window = fields.compress_ratios or PTDiTSettings.window
    _, rows, columns = window
    _, height, width = fields.proxy_compress_ratios or window
    try:
        return PTDiTSettings(window, (rows // height, columns // width))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"compress_ratios and proxy_compress_ratios of the configuration next to it are no windows "
                         f"({error}): download it again") from error
