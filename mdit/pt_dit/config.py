"""Sizes of a PT-DiT, from its weights' shapes and, where these are silent, a JSON (spec sections 1 and 2)."""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..shared.windows import Grid3D

PUBLISHED_HEAD_DIM = 72
LARGEST_SAMPLE = 127  # from 128 on, positions are interpolated and the size is a condition: another network
MARKS = ("transformer_blocks.0.proxy_attn1.to_q.weight", "pos_embed.proj.weight")
POSITIONS = ("reference", "rowcol")


@dataclass(frozen=True)
class Setting:
    """What one and the same weights leave open: the window's sides in tokens (frames, rows, columns), the proxies of a
    window along its rows and columns, and which of the two position tables (spec section 4).

    Raises ValueError for proxies that do not divide the window.
    """
    window: Grid3D = (1, 8, 8)
    proxies: tuple[int, int] = (1, 1)
    positions: str = "reference"

    def __post_init__(self):
        for name, side, count in zip(("rows", "columns"), self.window[1:], self.proxies):
            if count < 1 or side % count:
                raise ValueError(f"proxy_{name}: {count} does not divide the window's {side} {name}: choose one of "
                                 f"{', '.join(str(n) for n in range(1, side + 1) if side % n == 0)}")


@dataclass(frozen=True)
class PTDiTConfig:
    """`setting` is what the model is used with when the user sets nothing else."""
    width: int
    depth: int
    heads: int
    caption: int
    in_channels: int = 4
    out_channels: int = 8
    patch: int = 2
    setting: Setting = Setting()


def read_config(weights: dict[str, Tensor], path: str) -> PTDiTConfig:
    """Raises ValueError, without the file's name, for weights that are no PT-DiT or that the JSON contradicts.

    The JSON is `<name>.json` or `config.json` beside the weights at `path`.
    """
    if not all(mark in weights for mark in MARKS):
        raise ValueError("it holds no PT-DiT weights (no " + " and ".join(MARKS) + "): load PixArt and other models "
                         "with the host's own loaders")
    width, channels, patch, _ = weights["pos_embed.proj.weight"].shape
    told = read_json(Path(path))
    heads, head_dim = heads_of(told, width)
    if width != heads * head_dim:
        raise ValueError(f"its width {width} is not {heads} heads of {head_dim}, and no shape tells the heads: put the "
                         "config.json that belongs to it beside it, with num_heads and head_dim")
    if told.get("sample_size", 0) > LARGEST_SAMPLE:
        raise ValueError(f"its sample_size {told['sample_size']} is above {LARGEST_SAMPLE}: such a network reads the "
                         "picture's size, which is not supported; take the 1024 px model")
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("transformer_blocks."))
    return PTDiTConfig(width, depth, heads, shape(weights, "caption_projection.linear_1.weight")[1], channels,
                       shape(weights, "proj_out.weight")[0] // patch ** 2, patch, setting(told))


def heads_of(told: dict, width: int) -> tuple[int, int]:
    """The heads and the width of one: what is told, under its newer or older name, and else as published."""
    heads = told.get("num_heads") or told.get("num_attention_heads")
    head_dim = told.get("head_dim") or told.get("attention_head_dim")
    head_dim = head_dim or (width // heads if heads else PUBLISHED_HEAD_DIM)
    return heads or width // head_dim, head_dim


def shape(weights: dict[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in weights:
        raise ValueError(f"it lacks {key}: it was cut or renamed; download it again")
    return tuple(weights[key].shape)


def read_json(path: Path) -> dict:
    """The object `predictor` of a configuration in the original's form, or the whole; empty where there is none."""
    file = next(filter(Path.is_file, (path.with_suffix(".json"), path.with_name("config.json"))), None)
    if file is None:
        return {}
    try:
        told = json.loads(file.read_text("utf-8"))
        told = told.get("predictor", told)
        return told if "compress_ratios" in told or "num_heads" in told else {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"the configuration '{file}' beside it is damaged ({error}): download it again") from error


def setting(told: dict) -> Setting:
    """The windows of a configuration; it gives the sides of a proxy's region, not the number of proxies."""
    try:
        window = _, rows, columns = tuple(told.get("compress_ratios", Setting.window))
        _, height, width = told.get("proxy_compress_ratios", window)
        return Setting(window, (rows // height, columns // width))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"compress_ratios and proxy_compress_ratios of the configuration beside it are no windows "
                         f"({error}): download it again") from error
