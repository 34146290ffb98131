"""Writes a data set of any layout into webdataset's tar shards."""
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

from ..shared.text_files import parse_object, read_text
from .layouts import open_dataset

MANIFEST = "pack.json"


def pack(source: Path, out: Path, shard: int) -> None:
    """Writes `shard` samples a file to `out`. Images keep their bytes, label maps become palette images.

    A file appears when it is complete, and a later call resumes after the finished files.
    Raises ValueError as `open_dataset` does, for names with a dot, and if `out` holds shards of other samples.
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
    samples = dataset.yield_tar_samples(finished * shard)
    with tqdm(total=len(dataset.names), initial=finished * shard, unit="sample", disable=None) as bar:
        for file in files[finished:]:
            bar.update(write_tar(file, itertools.islice(samples, shard)))


def claim(out: Path, names: list[str], shard: int) -> None:
    """Writes into the folder which samples its shards hold."""
    content = {"samples": len(names), "shard": shard, "names": hashlib.sha256("\n".join(names).encode()).hexdigest()}
    manifest = out / MANIFEST
    out.mkdir(parents=True, exist_ok=True)
    if manifest.exists():
        foreign = parse_object(read_text(manifest), str(manifest)) != content
    else:
        foreign = any(out.glob("*.tar"))
    if foreign:
        raise ValueError(f"{out} holds shards of other samples or of another --shard: choose an empty folder")
    scratch = manifest.with_suffix(".part")
    scratch.write_text(json.dumps(content))
    os.replace(scratch, manifest)


def write_tar(file: Path, samples: Iterable[dict[str, Any]]) -> int:
    """Returns the number of samples. The same samples make the same bytes."""
    scratch = file.with_suffix(".tar.part")
    count = 0
    with open(scratch, "wb") as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)
            count += 1
    os.replace(scratch, file)
    return count
