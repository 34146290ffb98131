"""Multiply-adds of a PT-DiT beside full attention of the same width (spec section 11).

Two FLOPs each; norms, softmax and other element-wise work are left out. d is the width, N the tokens, S the windows'
slots (N where the windows fit), P those of one window, M the proxies, L the text tokens.
"""
from __future__ import annotations

import math
from typing import NamedTuple

from ..shared.windows import Grid3D, pad_to_windows
from .config import PTDiTConfig, Setting
from .model import TIME_FEATURES

CELL = 8  # pixels a latent cell


class Sizes(NamedTuple):
    N: int
    S: int
    P: int
    M: int
    L: int


def sizes_of(grid: Grid3D, setting: Setting, text: int) -> Sizes:
    slots, window = math.prod(pad_to_windows(grid, setting.window)), math.prod(setting.window)
    frames, rows, columns = (side // part for side, part in zip(pad_to_windows(grid, setting.window), setting.window))
    proxies = frames * axis_proxies(grid[1], rows, setting.window[1], setting.proxies[0]) * axis_proxies(
        grid[2], columns, setting.window[2], setting.proxies[1])
    return Sizes(math.prod(grid), slots, window, proxies, text)


def axis_proxies(side: int, windows: int, window: int, proxies: int) -> int:
    """Along one axis; the last window's are fewer where it holds fewer tokens than proxies."""
    return (windows - 1) * proxies + min(proxies, side - (windows - 1) * window)


def proxy_block(d: int, N: int, S: int, P: int, M: int, L: int) -> dict[str, int]:
    """One PT-DiT block, by its parts."""
    return {
        "proxies": 4 * M * d * d + 2 * M * M * d,
        "injection": 3 * N * d * d + 2 * M * d * d + 2 * N * M * d,
        "windows": (3 * S + N) * d * d + 2 * S * P * d,
        "shifted windows": (3 * S + 2 * N) * d * d + 2 * S * P * d,
        "text": 2 * N * d * d + 2 * L * d * d + 2 * N * L * d,
        "MLP": 8 * N * d * d,
    }


def pixart_block(d: int, N: int, L: int) -> int:
    """Full attention among all tokens, text cross-attention, MLP."""
    return 14 * N * d * d + 2 * N * N * d + 2 * L * d * d + 2 * N * L * d


def dit_block(d: int, N: int) -> int:
    """Full attention and MLP, with a modulation of its own; no text."""
    return 12 * N * d * d + 2 * N * N * d + 6 * d * d


def outside(config: PTDiTConfig, N: int, L: int) -> int:
    """Everything but the blocks."""
    d, cells = config.width, config.patch ** 2
    return (cells * (config.in_channels + config.out_channels) * N * d + TIME_FEATURES * d + 7 * d * d
            + L * (config.caption * d + d * d))


def break_even(config: PTDiTConfig, setting: Setting, text: int) -> int | None:
    """The smallest square in pixels, of whole windows, from which on a block is cheaper than PixArt's; None where
    that is beyond 8192."""
    unit, token = math.lcm(*setting.window[1:]), CELL * config.patch
    for side in range(unit, 8192 // token + 1, unit):
        sizes = sizes_of((setting.window[0], side, side), setting, text)
        if sum(proxy_block(config.width, *sizes).values()) < pixart_block(config.width, sizes.N, text):
            return side * token
    return None


def report(config: PTDiTConfig, setting: Setting, width: int, height: int, frames: int, text: int) -> tuple[str, int]:
    """The text that a user reads, and the multiply-adds of one evaluation of one item.

    `width` and `height` in pixels, `frames` in latents.
    """
    token = CELL * config.patch
    grid = (frames, -(-height // token), -(-width // token))
    sizes, d = sizes_of(grid, setting, text), config.width
    parts = proxy_block(d, *sizes)
    block, full, plain = sum(parts.values()), pixart_block(d, sizes.N, text), dit_block(d, sizes.N)
    total = config.depth * block + outside(config, sizes.N, text)
    even = break_even(config, setting, text)
    return "\n".join((
        f"{width} x {height} px, {frames} frame(s): {sizes.N} tokens, {sizes.M} proxies, windows of {sizes.P}, "
        f"{text} text tokens",
        *(f"  {name:16} {giga(macs)}" for name, macs in parts.items()),
        f"one block         {giga(block)}",
        f"full attention    {giga(full)}, as PixArt's block: PT-DiT {percent(block, full)}",
        f"                  {giga(plain)}, as DiT's block, without text: PT-DiT {percent(block, plain)}",
        f"whole network     {giga(total)} in {config.depth} blocks, for each step and each item",
        f"Cheaper than full attention from {even} px squares on." if even else
        "Not cheaper than full attention up to 8192 px.")), total


def giga(macs: int) -> str:
    return f"{macs / 1e9:10.2f} G multiply-adds"


def percent(ours: int, other: int) -> str:
    return f"{100 * (ours / other - 1):+.1f} %"
