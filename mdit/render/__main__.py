"""Render a training set into a folder, or a contact sheet into an image file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..labelmap import PALETTE
from .dataset import require_positive, write_set
from .scene import make_sample


def draw_contact_sheet(path: Path, count: int, size: int, seed: int, views: int = 1, columns: int = 10) -> None:
    """Draw samples 0 .. count-1 above their label maps. Raises ValueError for numbers that are not positive."""
    require_positive(count=count, size=size, views=views)
    tiles = [make_sample(seed, i, size, views) for i in range(count)]
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((2 * rows, size, columns, size, 3), np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet[2 * row, :, column] = tile.image
        sheet[2 * row + 1, :, column] = np.array(PALETTE, np.uint8)[tile.label]
    Image.fromarray(sheet.reshape(2 * rows * size, columns * size, 3)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python dev.py render", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the shards")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--shard", type=int, default=250, help="samples in a file")
    parser.add_argument("--views", type=int, default=1, help="samples in a row of one person (listed in people.txt)")
    parser.add_argument("--relief", action="store_true", help="write depth and normals, too")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet into this file instead")
    args = parser.parse_args()
    if not (args.sheet or args.out):
        parser.error("give an output folder or --sheet FILE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers: otherwise each takes all cores
    try:
        if args.sheet:
            draw_contact_sheet(args.sheet, args.count, args.size, args.seed, args.views)
        else:
            write_set(args.out, args.count, args.size, args.seed, args.workers, args.shard, args.views,
                      args.relief)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
