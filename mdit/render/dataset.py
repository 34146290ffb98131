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

RECIPE_FILE, PEOPLE_FILE = "recipe.json", "people.txt"


def write_shard(shard: tuple[Path, range], seed: int, size: int, views: int = 1) -> int:
    """Render one shard to its file, written whole or not at all; returns its number of samples."""
    path, indices = shard
    samples = [make_sample(seed, i, size, views) for i in indices]
    # An interrupted run leaves no name that a reader of *.npz would take for a shard.
    scratch = path.with_suffix(".npz.part")
    with open(scratch, "wb") as file:
        np.savez_compressed(
            file, image=np.stack([s.image for s in samples]), label=np.stack([s.label for s in samples]),
            caption=np.array([s.caption for s in samples]),
            attributes=np.array([json.dumps(s.attributes) for s in samples]))
    os.replace(scratch, path)
    return len(indices)


def require_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def claim(out: Path, recipe: dict[str, int]) -> None:
    """Make the folder and note what it holds; ValueError if it holds shards of another recipe."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / RECIPE_FILE
    if not note.exists():
        if any(out.glob("*.npz")):
            raise ValueError(f"{out} holds .npz files but no {RECIPE_FILE}: give an empty or a new folder.")
        note.write_text(json.dumps(recipe))
    elif (found := json.loads(note.read_text())) != recipe:
        raise ValueError(f"{out} was begun with {found}, not {recipe}: give the same values or another folder.")


def write_people(path: Path, count: int, shard: int, views: int) -> None:
    """Note the person of each sample, a line ``NAME PERSON`` each."""
    path.write_text("".join(f"{i // shard:05d}-{i % shard:04d} {i // views}\n" for i in range(count)))


def write_set(out: Path, count: int, size: int, seed: int, workers: int, shard: int, views: int = 1) -> None:
    """Render samples 0 .. count-1 at ``size`` pixels in shards of ``shard``; finished shards are kept.

    With ``views`` each so many samples in a row show one person, and ``people.txt`` notes whom.
    Raises ValueError for a number that is not positive, and for a folder begun with other numbers.
    """
    require_positive(count=count, size=size, workers=workers, shard=shard, views=views)
    claim(out, dict(count=count, size=size, seed=seed, shard=shard) | (dict(views=views) if views > 1 else {}))
    if views > 1:
        write_people(out / PEOPLE_FILE, count, shard, views)
    shards = [(out / f"{k:05d}.npz", range(start, min(start + shard, count)))
              for k, start in enumerate(range(0, count, shard))]
    missing = [(path, indices) for path, indices in shards if not path.exists()]
    finished = count - sum(len(indices) for _, indices in missing)
    work = partial(write_shard, seed=seed, size=size, views=views)
    with get_context("spawn").Pool(workers) as pool, tqdm(total=count, initial=finished, unit="sample") as bar:
        for done in pool.imap_unordered(work, missing):
            bar.update(done)
