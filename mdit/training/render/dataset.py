"""Data sets on disk: shards that are the same for a seed whatever the number of workers."""

from __future__ import annotations

import json
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .scene import make_sample


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
