"""Check a data set, or pack it into tar shards: ``python dev.py run -- python -m mdit.datasets check SOURCE``."""
from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..labelmap import CLASSES
from .faces import FaceDataset
from .layouts import open_dataset

SAMPLES_READ = 1000


def read_some(dataset: Dataset) -> Iterable[dict[str, Any]]:
    """Up to 1000 samples: evenly spread, or the first ones of tar shards."""
    if not isinstance(dataset, FaceDataset):
        return itertools.islice(dataset, SAMPLES_READ)
    step = -(-len(dataset) // SAMPLES_READ)
    return (dataset[index] for index in range(0, len(dataset), step))


def summarize(dataset: Dataset) -> str:
    """The number of samples; sizes, captions and classes of some samples."""
    sizes = Counter()
    captions = []
    fractions = []
    for sample in tqdm(read_some(dataset), "reading", unit="sample", disable=None):
        pixels = sample["labels"].flatten().bincount(minlength=len(CLASSES))  # (19,)
        fractions.append(pixels / pixels.sum())
        height, width = sample["labels"].shape
        sizes[f"{width}x{height}"] += 1
        captions.append(sample["captions"])
    lines = [f"{len(dataset.names)} samples, {len(fractions)} of them read",
             "sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5)),
             describe_captions(captions),
             *format_class_table(torch.stack(fractions))]
    return "\n".join(lines)


def describe_captions(captions: list[list[str]]) -> str:
    """A line about the captions of each sample."""
    words = [len(caption.split()) for caption in itertools.chain(*captions)]
    if not words:
        return "captions: none"
    return (f"captions: {len(words)}, of {sum(map(bool, captions))} of {len(captions)} samples, "
            f"{sum(words) / len(words):.1f} words on average")


def format_class_table(fractions: Tensor) -> list[str]:
    """Lines with each class's fraction of the pixels and of the samples, of fractions of the pixels (N, 19)."""
    pixels = fractions.mean(0).tolist()
    samples = (fractions > 0).float().mean(0).tolist()
    rows = zip(CLASSES, pixels, samples)
    return ["class          pixels  samples", *(f"{name:12} {p:8.2%} {s:8.1%}" for name, p, s in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.datasets", description=__doc__.partition(":")[0] + ".")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check all files and print a summary")
    packing = commands.add_parser("pack", help="write tar shards; an interrupted command resumes")
    for command in (check, packing):
        command.add_argument("source", type=Path)
    packing.add_argument("out", type=Path)
    packing.add_argument("--shard", type=int, default=500, help="samples in a file")
    args = parser.parse_args()
    try:
        if args.command == "check":
            print(summarize(open_dataset(args.source)))
        else:
            from .pack import pack  # checking needs no webdataset
            pack(args.source, args.out, args.shard)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
