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
from webdataset import DataPipeline, SimpleShardList, split_by_node, split_by_worker, tarfile_to_samples
from webdataset.tariterators import base_plus_ext
from webdataset.utils import pytorch_worker_info

from ..shared.text_files import decode_text
from .decoding import IMAGE_SUFFIXES
from .faces import split_captions
from .images import encode_png, fit_to_size, read_image, read_labels
from .survey import survey

IMAGE_KEYS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
MASK_KEYS = tuple(f"mask{suffix}" for suffix in IMAGE_SUFFIXES)


class Member(NamedTuple):
    """A sample in a shard, and the suffixes of its files."""
    shard: Path
    name: str
    suffixes: frozenset[str]


class TarDataset(IterableDataset):
    """Samples as of `FaceDataset`, one after the other in the order of the shards. Each reader has its own shards.

    Readers are the processes of a distributed run (RANK and WORLD_SIZE, or torch.distributed) times the workers of
    their data loaders. `names` are those of all shards.
    """

    def __init__(self, shards: Sequence[Path], names: Sequence[str], size: int | None, order: tuple[int, ...]):
        self.shards = list(shards)
        self.names = names
        self.size = size
        self.order = order

    def __iter__(self) -> Iterator[dict[str, Any]]:
        _, ranks, _, workers = pytorch_worker_info()
        if ranks * workers > len(self.shards):
            raise ValueError(f"{len(self.shards)} shards cannot be shared by {ranks} processes with {workers} workers "
                             "each: use fewer workers or pack with a smaller --shard")
        return map(self.decode, self.read_raw_samples())

    def read_raw_samples(self) -> DataPipeline:
        """This reader's samples as undecoded files."""
        shards = SimpleShardList([str(shard) for shard in self.shards])
        return DataPipeline(shards, split_by_node, split_by_worker, tarfile_to_samples())

    def load_labels(self, raw: dict[str, Any]) -> Tensor:
        return read_labels(io.BytesIO(next(raw[key] for key in MASK_KEYS if key in raw)), self.order)

    def decode(self, raw: dict[str, Any]) -> dict[str, Any]:
        try:
            image = read_image(io.BytesIO(next(raw[suffix] for suffix in IMAGE_KEYS if suffix in raw)))
            labels = self.load_labels(raw)
            captions = split_captions(decode_text(raw.get("txt", b"")))
        except Exception as error:  # each decoder raises errors of its own
            raise ValueError(f"{raw['__url__']}: sample {raw['__key__']} cannot be used ({error})") from error
        size = (self.size, self.size) if self.size else image.shape[1:]
        image, labels = fit_to_size(image, labels, size)
        return {"image": image, "labels": labels, "captions": captions, "name": raw["__key__"]}

    def yield_tar_samples(self, start: int) -> Iterator[dict[str, Any]]:
        """Samples from number `start` on, as webdataset writes them into a tar shard."""
        for raw in itertools.islice(self.read_raw_samples(), start, None):
            copied = {key: raw[key] for key in ("__key__", *IMAGE_KEYS, "txt") if key in raw}
            yield copied | {"mask.png": encode_png(self.load_labels(raw))}


def open_tars(source: Path, size: int | None, order: tuple[int, ...]) -> TarDataset:
    """Checks that no sample lacks a file. Images are read later, sample by sample."""
    shards = sorted(source.glob("*.tar"))
    members = list(itertools.chain(*survey(source, shards, read_members, "shard")))
    names = survey(source, members, check_member)
    if not names:
        raise FileNotFoundError(f"{source}: the tar shards hold no sample")
    return TarDataset(shards, names, size, order)


def read_members(shard: Path) -> list[Member]:
    """The samples of a shard, from its headers alone. Files of one sample must follow one another."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = [base_plus_ext(file.name) for file in tar if file.isfile()]
    except tarfile.TarError as error:
        raise ValueError(f"{shard} cannot be read ({error})") from error
    members = []
    for name, group in itertools.groupby(files, lambda file: file[0]):
        if name is not None:
            members.append(Member(shard, name, frozenset(suffix.lower() for _, suffix in group)))
    return members


def check_member(member: Member) -> str:
    """The sample's name. Raises ValueError for a missing file."""
    if member.suffixes.isdisjoint(IMAGE_KEYS):
        raise ValueError(f"{member.shard}: {member.name} has no image of the formats {', '.join(IMAGE_KEYS)}, only "
                         f"{', '.join(sorted(member.suffixes))}")
    if member.suffixes.isdisjoint(MASK_KEYS):
        raise ValueError(f"{member.shard}: {member.name} has no {member.name}.mask.png, only files with the endings "
                         f"{', '.join(sorted(member.suffixes))}")
    return member.name
