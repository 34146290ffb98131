"""A data set of faces with random access, and the samples of each layout."""
from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..shared.digests import add_value
from ..shared.text_files import read_text
from .decoding import Size, describe_missing, inspect_image
from .images import encode_png, fit_to_size, read_image, read_labels, read_part

TAR_SUFFIXES = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg"}  # files that a shard takes as they are
ASPECT_TOLERANCE = 0.01  # image and label map may have been rounded to different sizes


class Face(NamedTuple):
    """image (3, H, W) and labels (h, w), uint8, each in its file's own size; captions."""
    image: Tensor
    labels: Tensor
    captions: list[str]


class Source(Protocol):
    """One sample on disk."""
    name: str

    def load(self) -> Face: ...

    def describe_state(self) -> Any:
        """JSON values that are others once the sample has changed, without decoding it."""

    def make_tar_files(self) -> dict[str, bytes]:
        """The sample's files in a tar shard, by suffix."""


class FaceDataset(Dataset):
    """Samples dict(image (3, H, W) uint8, labels (H, W) uint8 in CelebAMask-HQ order, captions, name).

    `names` and `sizes` (height, width) describe the samples without reading them.
    """

    def __init__(self, sources: Sequence[Source], sizes: Sequence[Size]):
        self.sources = list(sources)
        self.sizes = list(sizes)

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = self.sources[index]
        image, labels, captions = source.load()
        image, labels = fit_to_size(image, labels, self.sizes[index])
        return {"image": image, "labels": labels, "captions": captions, "name": source.name}

    def describe_state(self, index: int) -> Any:
        """JSON values that are others once the sample has changed, without decoding it."""
        return [*self.sizes[index], self.sources[index].describe_state()]

    def resize(self, sizes: Sequence[Size]) -> FaceDataset:
        """The same samples at other sizes, one size a sample (`find_bucket_sizes`)."""
        if len(sizes) != len(self):
            raise ValueError(f"{len(sizes)} sizes for {len(self)} samples: give one for each")
        return FaceDataset(self.sources, sizes)

    def yield_tar_samples(self, start: int) -> Iterator[dict[str, Any]]:
        """Samples from number `start` on, as webdataset writes them into a tar shard."""
        for source in self.sources[start:]:
            yield {"__key__": source.name, **source.make_tar_files()}


def make_label_files(labels: Tensor, captions: list[str]) -> dict[str, bytes]:
    files = {"mask.png": encode_png(labels)}
    if captions:
        files["txt"] = "\n".join(captions).encode()
    return files


def split_captions(text: str) -> list[str]:
    """The captions of a file, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


@dataclass(frozen=True)
class FileFace(ABC):
    """An image file with a caption file; `text` is None where the data set has no captions."""
    name: str
    image: Path
    text: Path | None

    @abstractmethod
    def read_label_sizes(self) -> list[tuple[Path, Size]]:
        """Label files to compare with the image, and their sizes. Raises ValueError as `check` does."""

    @abstractmethod
    def load_labels(self) -> Tensor:
        """The label map, (H, W) uint8."""

    @abstractmethod
    def describe_labels(self) -> list[tuple[Path, Any]]:
        """The files of the label map, each with what else decides its classes."""

    def describe_state(self) -> list:
        """The size and time of each file."""
        files = [(self.image, None)] + self.describe_labels()
        if self.text:
            files.append((self.text, None))
        return [[kind, file.stat().st_size, file.stat().st_mtime_ns] for file, kind in files]

    def check(self) -> Size:
        """The image's size. Raises ValueError, naming the file, if a file is missing or cannot be used."""
        height, width = inspect_image(self.image)
        for file, (label_height, label_width) in self.read_label_sizes():
            if abs(height * label_width - width * label_height) > ASPECT_TOLERANCE * height * label_width:
                raise ValueError(f"{file} is {label_width}x{label_height}, the image {width}x{height}: "
                                 "their aspects differ")
        if self.text and not self.text.is_file():
            raise ValueError(describe_missing(self.text))
        if self.text and not self.load_captions():
            raise ValueError(f"{self.text} is empty")
        return height, width

    def load_captions(self) -> list[str]:
        return split_captions(read_text(self.text)) if self.text else []

    def load(self) -> Face:
        return Face(read_image(self.image), self.load_labels(), self.load_captions())

    def make_tar_files(self) -> dict[str, bytes]:
        suffix = TAR_SUFFIXES.get(self.image.suffix.lower(), "png")
        is_kept = self.image.suffix.lower() in TAR_SUFFIXES
        content = self.image.read_bytes() if is_kept else encode_png(read_image(self.image))
        return {suffix: content, **make_label_files(self.load_labels(), self.load_captions())}


@dataclass(frozen=True)
class MaskFace(FileFace):
    """A label map in one file (MM-CelebA-HQ). order: the class of each value in the file."""
    mask: Path
    order: tuple[int, ...]

    def read_label_sizes(self) -> list[tuple[Path, Size]]:
        if not self.mask.is_file():
            raise ValueError(describe_missing(self.mask))
        return [(self.mask, tuple(self.load_labels().shape))]

    def load_labels(self) -> Tensor:
        try:
            return read_labels(self.mask, self.order)
        except Exception as error:  # each decoder raises errors of its own
            raise ValueError(f"{self.mask}: {error}") from error

    def describe_labels(self) -> list[tuple[Path, Any]]:
        return [(self.mask, self.order)]


@dataclass(frozen=True)
class PartFace(FileFace):
    """A label map in one file a class, painted in the order of the classes, as CelebAMask-HQ's own g_mask.py does."""
    parts: tuple[tuple[int, Path], ...]

    def read_label_sizes(self) -> list[tuple[Path, Size]]:
        sizes = [(file, inspect_image(file)) for _, file in self.parts]
        if len({size for _, size in sizes}) != 1:
            raise ValueError(f"the part files of {self.image} are missing or differ in size")
        return sizes[:1]

    def load_labels(self) -> Tensor:
        labels = None
        for class_id, file in sorted(self.parts):
            painted = read_part(file)  # (H, W)
            if labels is None:
                labels = torch.zeros(painted.shape, dtype=torch.uint8)
            labels[painted] = class_id
        return labels

    def describe_labels(self) -> list[tuple[Path, Any]]:
        return [(file, class_id) for class_id, file in self.parts]


@dataclass(frozen=True, eq=False)
class RenderedFace:
    """A row of one of the renderer's shards: image (N, H, W, 3), label (N, H, W), caption (N,)."""
    name: str
    shard: dict[str, Any]
    row: int

    def load(self) -> Face:
        image = torch.from_numpy(self.shard["image"][self.row])
        labels = torch.from_numpy(self.shard["label"][self.row])
        return Face(image.permute(2, 0, 1).contiguous(), labels, [str(self.shard["caption"][self.row])])

    def describe_state(self) -> str:
        """The digest of the contents."""
        digest = hashlib.blake2b(digest_size=16)
        add_value(digest, self.load())
        return digest.hexdigest()

    def make_tar_files(self) -> dict[str, bytes]:
        face = self.load()
        return {"png": encode_png(face.image), **make_label_files(face.labels, face.captions)}
