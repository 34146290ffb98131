"""The data set of faces that can be read in any order, and the samples of each layout."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..training.data import swap_sides
from .pictures import Size, fit, inspect_picture, png, read_labels, read_picture

ASPECT_TOLERANCE = 0.01  # picture and label map may have been rounded to different sizes


class Face(NamedTuple):
    """image (3, H, W) and labels (h, w), uint8, each in its file's own size; captions."""
    image: Tensor
    labels: Tensor
    captions: list[str]


class Source(Protocol):
    """One sample on disk. `entry` are its files for a tar shard, by suffix."""
    name: str

    def load(self) -> Face: ...

    def entry(self) -> dict[str, bytes]: ...


class FaceDataset(Dataset):
    """Samples dict(image (3, H, W) uint8, labels (H, W) uint8 in CelebAMask-HQ order, captions, name).

    `names` and `sizes` (height, width) tell what each sample will be without reading it.
    """

    def __init__(self, sources: Sequence[Source], sizes: Sequence[Size]):
        self.sources, self.sizes = list(sources), list(sizes)

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        source = self.sources[index]
        image, labels, captions = source.load()
        image, labels = fit(image, labels, self.sizes[index])
        return {"image": image, "labels": labels, "captions": captions, "name": source.name}

    def resized(self, sizes: Sequence[Size]) -> FaceDataset:
        """The same samples at other sizes, one each (`Buckets.shapes`)."""
        if len(sizes) != len(self):
            raise ValueError(f"{len(sizes)} sizes for {len(self)} samples: give one for each")
        return FaceDataset(self.sources, sizes)

    def subset(self, indices: Sequence[int]) -> FaceDataset:
        """Some of the samples, for a split into training and test (spec mditface.md, 9)."""
        return FaceDataset([self.sources[i] for i in indices], [self.sizes[i] for i in indices])

    def with_mirrors(self) -> FaceDataset:
        """All samples and then all their mirror images, which a cache can hold as well."""
        return FaceDataset([*self.sources, *map(Mirror, self.sources)], self.sizes * 2)

    def entries(self, start: int) -> Iterator[dict[str, Any]]:
        """Samples of a tar shard in webdataset's form, from a number on."""
        for source in self.sources[start:]:
            yield {"__key__": source.name, **source.entry()}


def mirrored(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample seen in a mirror; its left stays the person's own left."""
    return sample | {"image": sample["image"].flip(-1), "labels": swap_sides(sample["labels"].flip(-1))}


@dataclass(frozen=True)
class Mirror:
    source: Source

    @property
    def name(self) -> str:
        return f"{self.source.name}-mirrored"

    def load(self) -> Face:
        image, labels, captions = self.source.load()
        return Face(image.flip(-1), swap_sides(labels.flip(-1)), captions)

    def entry(self) -> dict[str, bytes]:
        return png_entry(self.load())


def label_entry(labels: Tensor, captions: list[str]) -> dict[str, bytes]:
    text = {"txt": "\n".join(captions).encode()} if captions else {}
    return {"mask.png": png(labels), **text}


def png_entry(face: Face) -> dict[str, bytes]:
    return {"png": png(face.image), **label_entry(face.labels, face.captions)}


def split_captions(text: bytes) -> list[str]:
    """The captions of a file, one a line."""
    return [line.strip() for line in text.decode("utf-8-sig").splitlines() if line.strip()]


@dataclass(frozen=True)
class FileFace(ABC):
    """A picture file with a caption file, or None where the data set has no captions."""
    name: str
    picture: Path
    text: Path | None

    @abstractmethod
    def label_sizes(self) -> list[tuple[Path, Size]]:
        """Sizes of the label files that are to be compared with the picture's; raises ValueError as `check`."""

    @abstractmethod
    def labels(self) -> Tensor:
        """The label map, (H, W) uint8."""

    def check(self) -> Size:
        """The picture's size. Raises ValueError, naming the file, for what is missing or cannot be used."""
        size = inspect_picture(self.picture)
        for file, other in self.label_sizes():
            if abs(size[0] * other[1] - size[1] * other[0]) > ASPECT_TOLERANCE * size[0] * other[1]:
                raise ValueError(f"{file} is {other[1]}x{other[0]}, the picture {size[1]}x{size[0]}: "
                                 "their aspects differ")
        if self.text and not (self.text.is_file() and self.captions()):
            raise ValueError(f"{self.text} is missing or empty")
        return size

    def captions(self) -> list[str]:
        return split_captions(self.text.read_bytes()) if self.text else []

    def load(self) -> Face:
        return Face(read_picture(self.picture), self.labels(), self.captions())

    def entry(self) -> dict[str, bytes]:
        suffix = "png" if self.picture.suffix.lower() == ".png" else "jpg"
        return {suffix: self.picture.read_bytes(), **label_entry(self.labels(), self.captions())}


@dataclass(frozen=True)
class MaskFace(FileFace):
    """A label map in one file (MM-CelebA-HQ)."""
    mask: Path
    order: tuple[int, ...]

    def label_sizes(self) -> list[tuple[Path, Size]]:
        if not self.mask.is_file():
            raise ValueError(f"{self.mask} is missing")
        return [(self.mask, tuple(self.labels().shape))]

    def labels(self) -> Tensor:
        try:
            return read_labels(self.mask, self.order)
        except Exception as error:  # each decoder has its own kinds
            raise ValueError(f"{self.mask}: {error}") from error


@dataclass(frozen=True)
class PartFace(FileFace):
    """A label map in one file a class, painted in the order of their classes (CelebAMask-HQ's own g_mask.py)."""
    parts: tuple[tuple[int, Path], ...]

    def label_sizes(self) -> list[tuple[Path, Size]]:
        sizes = [(file, inspect_picture(file)) for _, file in self.parts]
        if len({size for _, size in sizes}) != 1:
            raise ValueError(f"the part files of {self.picture} are missing or differ in size")
        return sizes[:1]

    def labels(self) -> Tensor:
        labels = None
        for class_id, file in sorted(self.parts):
            part = read_picture(file)[0] > 0  # (H, W)
            labels = torch.zeros(part.shape, dtype=torch.uint8) if labels is None else labels
            labels[part] = class_id
        return labels


@dataclass(frozen=True, eq=False)
class RenderedFace:
    """A row of one of the renderer's shards: image (N, H, W, 3), label (N, H, W), caption (N,)."""
    name: str
    shard: dict[str, Any]
    row: int

    def load(self) -> Face:
        image, labels = (torch.from_numpy(self.shard[key][self.row]) for key in ("image", "label"))
        return Face(image.permute(2, 0, 1).contiguous(), labels, [str(self.shard["caption"][self.row])])

    def entry(self) -> dict[str, bytes]:
        return png_entry(self.load())
