"""Render a training set or a contact sheet: ``python -m mdit.training.render OUT --count N``."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .scene import make_sample

PALETTE = np.array([
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
    (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
    (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0)], np.uint8)


def write_shard(shard: tuple[Path, range], seed: int, size: int) -> int:
    """Render one shard to its file, written whole or not at all; a finished one is left alone."""
    path, indices = shard
    if not path.exists():
        samples = [make_sample(seed, i, size) for i in indices]
        scratch = path.with_suffix(".part.npz")
        np.savez_compressed(
            scratch, image=np.stack([s.image for s in samples]), label=np.stack([s.label for s in samples]),
            caption=np.array([s.caption for s in samples]),
            attributes=np.array([json.dumps(s.attributes) for s in samples]))
        os.replace(scratch, path)
    return len(indices)


def write_set(out: Path, count: int, size: int, seed: int, workers: int, shard: int) -> None:
    """Render samples 0 .. count-1 in shards."""
    out.mkdir(parents=True, exist_ok=True)
    shards = [(out / f"{k:05d}.npz", range(start, min(start + shard, count)))
              for k, start in enumerate(range(0, count, shard))]
    work = partial(write_shard, seed=seed, size=size)
    with get_context("spawn").Pool(workers) as pool, tqdm(total=count, unit="sample") as bar:
        for done in pool.imap(work, shards):
            bar.update(done)


def contact_sheet(path: Path, count: int, size: int, seed: int, columns: int = 10) -> None:
    """Renders above their label maps."""
    tiles = [make_sample(seed, i, size) for i in range(count)]
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((2 * rows, size, columns, size, 3), np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet[2 * row, :, column] = tile.image
        sheet[2 * row + 1, :, column] = PALETTE[tile.label]
    Image.fromarray(sheet.reshape(2 * rows * size, columns * size, 3)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.training.render", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the shards")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard", type=int, default=500, help="samples in a file")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet to this file instead")
    args = parser.parse_args()
    if args.sheet:
        contact_sheet(args.sheet, args.count, args.size, args.seed)
    elif args.out:
        write_set(args.out, args.count, args.size, args.seed, args.workers, args.shard)
    else:
        parser.error("give an output folder or --sheet FILE")


if __name__ == "__main__":
    main()
