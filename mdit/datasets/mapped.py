"""The renderer's shards as arrays on disk, for sets that are larger than memory."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .renders import find_shards, read_shard

FOLDER = "mapped"  # in the folder of the shards
DIGEST = "shards.json"


class MappedRenders:
    """All samples of a folder of shards: images (N, S, S, 3) and labels (N, S, S) uint8, mapped from disk.

    The first use unpacks the shards beside them. Raises FileNotFoundError for a folder without shards, ValueError for
    broken shards.
    """

    def __init__(self, folder: Path):
        files = find_shards(folder)
        unpacked = Path(folder) / FOLDER
        if read_digest(unpacked) != describe_shards(files):
            unpack(files, unpacked)
        self.images = np.load(unpacked / "image.npy", mmap_mode="r")
        self.labels = np.load(unpacked / "label.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.labels)

    def crop(self, index: int, top: int, left: int, side: int) -> tuple[Tensor, Tensor]:
        """A square of one sample: image (3, side, side), labels (side, side)."""
        rows, columns = slice(top, top + side), slice(left, left + side)
        image = np.ascontiguousarray(self.images[index, rows, columns].transpose(2, 0, 1))
        return torch.from_numpy(image), torch.from_numpy(self.labels[index, rows, columns].copy())

    def get_batch(self, index: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Whole samples, reduced if they are larger: images (B, 3, side, side) and labels (B, side, side), uint8.

        A reduced pixel is the mean of those that it covers, a reduced label the one at its center. Raises ValueError
        for a side that does not divide the samples'.
        """
        whole = self.labels.shape[1]
        side = min(side, whole)
        if whole % side:
            raise ValueError(f"size: {side} does not divide the {whole} pixels of the renders: take another size")
        ratio = whole // side
        images = np.stack([reduce_image(self.images[i], ratio) for i in index.tolist()])
        labels = np.stack([self.labels[i, ratio // 2::ratio, ratio // 2::ratio] for i in index.tolist()])
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def reduce_image(image: np.ndarray, ratio: int) -> np.ndarray:
    """An image (S, S, 3) uint8 -> (S / ratio, S / ratio, 3) uint8."""
    total = np.zeros((image.shape[0] // ratio, image.shape[1] // ratio, 3), np.uint32)
    for row in range(ratio):
        for column in range(ratio):
            total += image[row::ratio, column::ratio]
    return ((total + ratio ** 2 // 2) // ratio ** 2).astype(np.uint8)


def describe_shards(files: list[Path]) -> str:
    """A digest of the names, sizes and times of shards."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def read_digest(folder: Path) -> str | None:
    file = folder / DIGEST
    return file.read_text() if file.is_file() else None


def unpack(files: list[Path], folder: Path) -> None:
    """Write image.npy and label.npy; the digest comes last, so an interrupted run is begun again."""
    folder.mkdir(exist_ok=True)
    (folder / DIGEST).unlink(missing_ok=True)
    counts = [len(read_shard(file, ("image", "label"))["label"]) for file in files]
    side = read_shard(files[0], ("image", "label"))["label"].shape[1]
    shapes = {"image": (sum(counts), side, side, 3), "label": (sum(counts), side, side)}
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, shape)
              for name, shape in shapes.items()}
    start = 0
    for file, count in zip(files, counts):
        shard = read_shard(file, ("image", "label"))
        if shard["label"].shape[1:] != (side, side):
            raise ValueError(f"{file}: its images are not {side} x {side} pixels as those of {files[0].name}: use one "
                             "folder for each size")
        for name, array in arrays.items():
            array[start:start + count] = shard[name]
        start += count
    for array in arrays.values():
        array.flush()
    (folder / DIGEST).write_text(describe_shards(files))
