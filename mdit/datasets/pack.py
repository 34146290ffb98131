"""Webdataset's tar shards from a data set of any layout."""
from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from webdataset import TarWriter

from .layouts import open_dataset

MANIFEST = "pack.json"


def pack(source: Path, out: Path, shard: int) -> None:
    """Writes `shard` samples a file to `out`; pictures keep their bytes, label maps become palette pictures.

    Each file is written whole or not at all, and a later call goes on behind the finished ones.
    Raises ValueError as `open_dataset`, for names with a dot and where `out` holds shards of something else.
    """
    if shard < 1:
        raise ValueError(f"--shard {shard}: a shard has at least one sample")
    dataset = open_dataset(source)
    if dotted := [name for name in dataset.names if "." in name]:
        raise ValueError(f"{source}: tar shards cut names at the first dot, and {len(dotted)} samples have one, the "
                         f"first is {dotted[0]}. Rename them.")
    claim(out, dataset.names, shard)
    files = [out / f"{k:05d}.tar" for k in range(-(-len(dataset.names) // shard))]
    finished = len(list(itertools.takewhile(Path.exists, files)))
    entries = dataset.entries(finished * shard)
    with tqdm(total=len(dataset.names), initial=finished * shard, unit="sample", disable=None) as bar:
        for file in files[finished:]:
            bar.update(write_tar(file, itertools.islice(entries, shard)))


def claim(out: Path, names: list[str], shard: int) -> None:
    """Notes in the folder what its shards are of."""
    told = {"samples": len(names), "shard": shard, "names": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    manifest = out / MANIFEST
    out.mkdir(parents=True, exist_ok=True)
    if manifest.exists() and json.loads(manifest.read_text()) != told or (
            not manifest.exists() and any(out.glob("*.tar"))):
        raise ValueError(f"{out} holds shards of other samples or of another --shard: choose an empty folder")
    scratch = manifest.with_suffix(".part")
    scratch.write_text(json.dumps(told))
    os.replace(scratch, manifest)


def write_tar(file: Path, entries: Iterable[dict[str, Any]]) -> int:
    """Returns the number of samples. The same samples make the same bytes."""
    scratch, count = file.with_suffix(".tar.part"), 0
    with open(scratch, "wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for entry in entries:
            tar.write(entry)
            count += 1
    os.replace(scratch, file)
    return count
