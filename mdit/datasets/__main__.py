"""Look at a data set, or pack it into tar shards: ``python -m mdit.datasets check SOURCE``."""
from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ..labelmap import CLASSES
from .layouts import open_dataset
from .faces import FaceDataset

LOOKED_AT = 1000


def examples(dataset: Dataset) -> Iterable[dict[str, Any]]:
    """Up to 1000 samples: evenly spread, of tar shards the first."""
    if not isinstance(dataset, FaceDataset):
        return itertools.islice(dataset, LOOKED_AT)
    step = -(-len(dataset) // LOOKED_AT)
    return (dataset[index] for index in range(0, len(dataset), step))


def summary(dataset: Dataset) -> str:
    """Count, and of some samples the sizes, captions and classes."""
    sizes, captions, shares, present = Counter(), [], [], torch.zeros(len(CLASSES))
    for sample in tqdm(examples(dataset), "reading", unit="sample", disable=None):
        pixels = sample["labels"].flatten().bincount(minlength=len(CLASSES))  # (19,)
        shares.append(pixels / pixels.sum())
        present += pixels > 0
        sizes["{1}x{0}".format(*sample["labels"].shape)] += 1
        captions.append(sample["captions"])
    words = [len(caption.split()) for texts in captions for caption in texts]
    lines = [f"{len(dataset.names)} samples, {len(shares)} of them read",
             "sizes: " + ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5)),
             f"captions: {len(words)} of {sum(map(bool, captions))} samples, "
             f"{sum(words) / max(1, len(words)):.1f} words on average",
             "class          pixels  samples"]
    rows = zip(CLASSES, torch.stack(shares).mean(0).tolist(), (present / len(shares)).tolist())
    return "\n".join(lines + [f"{name:12} {share:8.2%} {samples:8.1%}" for name, share, samples in rows])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check all files and print a summary")
    packing = commands.add_parser("pack", help="write tar shards; goes on where it was stopped")
    for command in (check, packing):
        command.add_argument("source", type=Path)
    packing.add_argument("out", type=Path)
    packing.add_argument("--shard", type=int, default=500, help="samples in a file")
    args = parser.parse_args()
    try:
        if args.command == "check":
            print(summary(open_dataset(args.source)))
        else:
            from .pack import pack  # webdataset is not needed to check
            pack(args.source, args.out, args.shard)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
