"""Webdataset's tar shards: a stream of faces for many machines."""
from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import IterableDataset
from webdataset import (
    DataPipeline, SimpleShardList, detshuffle, split_by_node, split_by_worker, tarfile_to_samples,
)
from webdataset.tariterators import base_plus_ext
from webdataset.utils import pytorch_worker_info

from .faces import split_captions
from .pictures import fit, png, read_labels, read_picture
from .survey import survey

PICTURES = ("jpg", "jpeg", "png")
BUFFER = 1000  # undecoded samples from which a shuffled stream draws


class Member(NamedTuple):
    """A sample in a shard, and the suffixes of its files."""
    shard: Path
    name: str
    suffixes: frozenset[str]


class TarDataset(IterableDataset):
    """Samples as of `FaceDataset`, one after the other in the order of the shards, each reader its own shards.

    Readers are the processes of a distributed run (RANK and WORLD_SIZE, or torch.distributed) times the workers of
    their data loaders. `names` are those of all shards.
    """

    def __init__(self, shards: Sequence[Path], names: Sequence[str], size: int | None, order: tuple[int, ...]):
        self.shards, self.names, self.size, self.order = list(shards), list(names), size, order
        self.seed: int | None = None

    def endless(self, seed: int) -> TarDataset:
        """The same samples epoch after epoch, shuffled anew in each: no process waits for one that has more."""
        stream = TarDataset(self.shards, self.names, self.size, self.order)
        stream.seed = seed
        return stream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        _, ranks, _, workers = pytorch_worker_info()
        if ranks * workers > len(self.shards):
            raise ValueError(f"{len(self.shards)} shards cannot be shared by {ranks} processes with {workers} workers "
                             "each: use fewer workers or pack with a smaller --shard")
        epochs = [None] if self.seed is None else itertools.count(self.seed)
        return (self.decode(entry) for epoch in epochs for entry in self.stream(epoch))

    def stream(self, epoch: int | None) -> DataPipeline:
        """This reader's samples as files, shuffled for an epoch or in order."""
        shards = SimpleShardList([str(shard) for shard in self.shards], seed=epoch)
        mix = [] if epoch is None else [detshuffle(BUFFER, seed=epoch)]
        return DataPipeline(shards, split_by_node, split_by_worker, tarfile_to_samples(), *mix)

    def labels(self, entry: dict[str, Any]) -> Tensor:
        return read_labels(io.BytesIO(entry["mask.png"]), self.order)

    def decode(self, entry: dict[str, Any]) -> dict[str, Any]:
        try:
            image = read_picture(io.BytesIO(next(entry[key] for key in PICTURES if key in entry)))
            labels = self.labels(entry)
        except Exception as error:  # each decoder has its own kinds
            raise ValueError(f"{entry['__url__']}: sample {entry['__key__']} cannot be used ({error})") from error
        image, labels = fit(image, labels, (self.size, self.size) if self.size else image.shape[1:])
        captions = split_captions(entry.get("txt", b""))
        return {"image": image, "labels": labels, "captions": captions, "name": entry["__key__"]}

    def entries(self, start: int) -> Iterator[dict[str, Any]]:
        """Samples of a tar shard in webdataset's form, from a number on."""
        for entry in itertools.islice(self.stream(None), start, None):
            kept = {key: entry[key] for key in ("__key__", *PICTURES, "txt") if key in entry}
            yield kept | {"mask.png": png(self.labels(entry))}


def open_tars(source: Path, size: int | None, order: tuple[int, ...]) -> TarDataset:
    """Checks that no sample misses a file; the pictures are read when their turn comes."""
    shards = sorted(source.glob("*.tar"))
    members = list(itertools.chain(*survey(source, shards, read_members, "shard")))
    names = survey(source, members, check_member)
    if not names:
        raise FileNotFoundError(f"{source}: the tar shards are there, but no sample is in them")
    return TarDataset(shards, names, size, order)


def read_members(shard: Path) -> list[Member]:
    """The samples of a shard from its headers alone. Files of one sample must follow one another."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = [base_plus_ext(file.name) for file in tar if file.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"{shard} cannot be read ({error})") from error
    return [Member(shard, name, frozenset(suffix.lower() for _, suffix in group))
            for name, group in itertools.groupby(files, lambda file: file[0]) if name is not None]


def check_member(member: Member) -> str:
    """The sample's name. Raises ValueError for a missing file."""
    if member.suffixes.isdisjoint(PICTURES):
        raise ValueError(f"{member.shard}: {member.name} has no picture")
    if "mask.png" not in member.suffixes:
        raise ValueError(f"{member.shard}: {member.name} has no {member.name}.mask.png")
    return member.name
