"""Multiply-adds of a PT-DiT, compared with full attention of the same width (docs/design/pt-dit.md, section 11).

A multiply-add is two FLOPs. Norms, softmax and element-wise operations are left out. d is the width of the model.
"""
from __future__ import annotations

import math
from typing import NamedTuple

from ..shared.windows import Grid3D, pad_to_windows
from .config import PTDiTConfig, PTDiTSettings
from .model import TIME_FEATURES

CELL = 8  # pixels along a side of a latent cell
LARGEST = 8192  # pixels


class TokenCounts(NamedTuple):
    """N tokens, S slots of all windows (N if nothing is padded), P slots of one, M proxies, L text tokens."""
    N: int
    S: int
    P: int
    M: int
    L: int


def count_tokens(grid: Grid3D, settings: PTDiTSettings, text: int) -> TokenCounts:
    window = settings.window
    padded = pad_to_windows(grid, window)
    frames, rows, columns = (side // part for side, part in zip(padded, window))  # windows along each axis
    proxies = (frames * count_axis_proxies(grid[1], rows, window[1], settings.proxies[0])
               * count_axis_proxies(grid[2], columns, window[2], settings.proxies[1]))
    return TokenCounts(N=math.prod(grid), S=math.prod(padded), P=math.prod(window), M=proxies, L=text)


def count_axis_proxies(side: int, windows: int, window: int, proxies: int) -> int:
    """Proxies along one axis. The last window has fewer if it holds fewer tokens than proxies."""
    return (windows - 1) * proxies + min(proxies, side - (windows - 1) * window)


def count_proxy_block(d: int, counts: TokenCounts) -> dict[str, int]:
    """One PT-DiT block, by its parts."""
    N, S, P, M, L = counts
    return {
        "proxies": 4 * M * d * d + 2 * M * M * d,
        "injection": 3 * N * d * d + 2 * M * d * d + 2 * N * M * d,
        "windows": (3 * S + N) * d * d + 2 * S * P * d,
        "shifted windows": (3 * S + 2 * N) * d * d + 2 * S * P * d,
        "text": 2 * N * d * d + 2 * L * d * d + 2 * N * L * d,
        "MLP": 8 * N * d * d,
    }


def count_pixart_block(d: int, N: int, L: int) -> int:
    """Full attention among all tokens, text cross-attention, MLP."""
    return 14 * N * d * d + 2 * N * N * d + 2 * L * d * d + 2 * N * L * d


def count_dit_block(d: int, N: int) -> int:
    """Full attention and MLP, with a modulation of its own; no text."""
    return 12 * N * d * d + 2 * N * N * d + 6 * d * d


def count_outside(config: PTDiTConfig, N: int, L: int) -> int:
    """Everything but the blocks."""
    d = config.width
    patches = config.patch ** 2 * (config.in_channels + config.out_channels) * N * d
    time = TIME_FEATURES * d + 7 * d * d
    text = L * (config.caption * d + d * d)
    return patches + time + text


def find_break_even(config: PTDiTConfig, settings: PTDiTSettings, text: int) -> int | None:
    """The smallest square in pixels, of whole windows, from which on a block is cheaper than that of PixArt.

    None if it is larger than LARGEST.
    """
    unit = math.lcm(*settings.window[1:])
    token = CELL * config.patch
    for side in range(unit, LARGEST // token + 1, unit):
        counts = count_tokens((settings.window[0], side, side), settings, text)
        block = sum(count_proxy_block(config.width, counts).values())
        if block < count_pixart_block(config.width, counts.N, text):
            return side * token
    return None


def report_cost(config: PTDiTConfig, settings: PTDiTSettings, grid: Grid3D, text: int) -> tuple[str, int]:
    """The report for the user, and the multiply-adds of one evaluation of one image.

    grid: frames, rows and columns of tokens.
    """
    counts = count_tokens(grid, settings, text)
    parts = count_proxy_block(config.width, counts)
    block = sum(parts.values())
    pixart = count_pixart_block(config.width, counts.N, text)
    dit = count_dit_block(config.width, counts.N)
    total = config.depth * block + count_outside(config, counts.N, text)
    lines = [
        f"{counts.N} tokens, {counts.M} proxies, windows of {counts.P}, {text} text tokens",
        *(f"  {name:16} {format_giga(macs)}" for name, macs in parts.items()),
        f"one block         {format_giga(block)}",
        f"full attention    {format_giga(pixart)}, as PixArt's block: PT-DiT {format_change(block, pixart)}",
        f"                  {format_giga(dit)}, as DiT's block, without text: PT-DiT {format_change(block, dit)}",
        f"whole network     {format_giga(total)} in {config.depth} blocks, for each step and each image",
        describe_break_even(find_break_even(config, settings, text)),
    ]
    return "\n".join(lines), total


def compute_token_grid(config: PTDiTConfig, width: int, height: int, frames: int) -> Grid3D:
    """The grid of an image or video; `width` and `height` in pixels, `frames` in latent frames."""
    token = CELL * config.patch
    return frames, -(-height // token), -(-width // token)


def describe_break_even(side: int | None) -> str:
    if side is None:
        return f"Not cheaper than full attention up to {LARGEST} px."
    return f"Cheaper than full attention for squares of {side} px and more."


def format_giga(macs: int) -> str:
    return f"{macs / 1e9:10.2f} G multiply-adds"


def format_change(ours: int, other: int) -> str:
    return f"{100 * (ours / other - 1):+.1f} %"
