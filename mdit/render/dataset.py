"""Rendered data sets on disk. A seed gives the same shards for any number of workers."""

from __future__ import annotations

import json
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..shared.text_files import parse_object, read_text
from .scene import Relief, make_sample

RECIPE_FILE = "recipe.json"
PEOPLE_FILE = "people.txt"


def write_shard(shard: tuple[Path, range], seed: int, size: int, views: int = 1, relief: bool = False) -> int:
    """Render one shard; its file appears when it is complete. Returns the number of samples."""
    path, indices = shard
    samples = [make_sample(seed, i, size, views, relief) for i in indices]
    shapes = {name: np.stack([getattr(s.relief, name) for s in samples]) for name in Relief._fields if relief}
    # Readers look for *.npz and pass over the file of an interrupted run.
    scratch = path.with_suffix(".npz.part")
    with open(scratch, "wb") as file:
        np.savez_compressed(
            file, image=np.stack([s.image for s in samples]), label=np.stack([s.label for s in samples]),
            caption=np.array([s.caption for s in samples]),
            attributes=np.array([json.dumps(s.attributes) for s in samples]), **shapes)
    os.replace(scratch, path)
    return len(indices)


def require_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def claim(out: Path, recipe: dict[str, int]) -> None:
    """Make the folder and write its recipe into it. Raises ValueError if it holds shards of another recipe.

    A folder of whole shards takes more of them: samples depend on the seed and their number alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / RECIPE_FILE
    if not file.exists():
        if any(out.glob("*.npz")):
            raise ValueError(f"{out} holds .npz files but no {RECIPE_FILE}: give an empty or a new folder.")
    elif (found := parse_object(read_text(file), str(file))) != recipe:
        whole = range(recipe["shard"], recipe["count"], recipe["shard"])
        if found | {"count": recipe["count"]} != recipe or found.get("count") not in whole:
            raise ValueError(f"{out} was begun with {found}, not {recipe}: give the same values or another folder.")
    file.write_text(json.dumps(recipe))


def write_people(path: Path, count: int, shard: int, views: int) -> None:
    """Write a line ``NAME PERSON`` for each sample."""
    path.write_text("".join(f"{i // shard:05d}-{i % shard:04d} {i // views}\n" for i in range(count)))


def write_set(out: Path, count: int, size: int, seed: int, workers: int, shard: int, views: int = 1,
              relief: bool = False) -> None:
    """Render samples 0 .. count-1 at ``size`` pixels in shards of ``shard`` samples. Finished shards are left alone.

    Each ``views`` samples in a row show one person; with more than one, ``people.txt`` names the person of a sample.
    With ``relief``, shards also hold depth and normals.
    Raises ValueError for a number that is not positive, and for a folder begun with other numbers.
    """
    require_positive(count=count, size=size, workers=workers, shard=shard, views=views)
    recipe = dict(count=count, size=size, seed=seed, shard=shard)
    if views > 1:
        recipe["views"] = views
    if relief:
        recipe["relief"] = True
    claim(out, recipe)
    if views > 1:
        write_people(out / PEOPLE_FILE, count, shard, views)
    shards = [(out / f"{k:05d}.npz", range(start, min(start + shard, count)))
              for k, start in enumerate(range(0, count, shard))]
    missing = [(path, indices) for path, indices in shards if not path.exists()]
    finished = count - sum(len(indices) for _, indices in missing)
    work = partial(write_shard, seed=seed, size=size, views=views, relief=relief)
    with get_context("spawn").Pool(workers) as pool, tqdm(total=count, initial=finished, unit="sample") as bar:
        for done in pool.imap_unordered(work, missing):
            bar.update(done)
