"""The renderer's shards, and all samples of a folder of them in memory."""
from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from ..labelmap import CLASSES
from ..shared.text_files import parse_object
from .augment import mirror
from .survey import survey

ARRAYS = ("image", "label", "caption")


def list_shards(folder: Path) -> list[Path]:
    """The finished shards of a folder."""
    return sorted(file for file in Path(folder).glob("*.npz") if not file.name.endswith(".part.npz"))


def find_shards(folder: Path, options: str = "") -> list[Path]:
    """The finished shards of a folder. Raises FileNotFoundError where there are none. options: that render them."""
    files = list_shards(folder)
    if not files:
        raise FileNotFoundError(f"data: no finished shard (*.npz) in {folder}, and this target reads only the "
                                f"renderer's: make some with python dev.py render{options}")
    return files


def read_shard(file: Path, names: tuple[str, ...] = ARRAYS) -> dict[str, np.ndarray]:
    """Arrays of a shard: image (N, H, W, 3) and label (N, H, W) uint8, caption (N,), attributes (N,) as JSON.

    names: the arrays to read. Raises ValueError, naming the file, for a shard that is broken.
    """
    arrays = open_shard(file, names)
    check_arrays(file, **arrays)
    return arrays


def open_shard(file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of a shard, of any shapes. Raises ValueError, naming the file, where they cannot be read."""
    try:
        with np.load(file, allow_pickle=False) as shard:
            arrays = {name: shard[name] for name in names if name in shard}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"{file} cannot be read ({error})") from error
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{file}: it lacks {', '.join(missing)}")
    return arrays


def check_arrays(file: Path, image: np.ndarray, label: np.ndarray, **texts: np.ndarray) -> None:
    """Raises ValueError, naming the file, for arrays of other types or shapes, labels without a class, other JSON."""
    are_bytes = image.dtype == label.dtype == np.uint8
    if not are_bytes or image.shape != (*label.shape, 3):
        raise ValueError(f"{file}: images {image.shape} {image.dtype} and labels {label.shape} {label.dtype} "
                         "do not fit together")
    for name, text in texts.items():
        if text.shape != label.shape[:1]:
            raise ValueError(f"{file}: images {image.shape} and {name} {text.shape} do not fit together")
    for text in texts.get("attributes", ()):
        parse_object(str(text), f"{file}: attributes")
    if (top := label.max(initial=0)) >= len(CLASSES):
        raise ValueError(f"{file}: label values up to {top}, there are classes for 0 to {len(CLASSES) - 1}")


class Renders:
    """All samples of a folder of shards: images (N, S, S, 3) and labels (N, S, S) uint8, captions, attributes.

    Raises FileNotFoundError for a folder without shards, ValueError for broken shards and for images of several sizes.
    """

    def __init__(self, folder: Path):
        files = find_shards(folder)
        shards = survey(folder, files, partial(read_shard, names=(*ARRAYS, "attributes")), "shard")
        sides = {shard["image"].shape[1:3] for shard in shards}
        if len(sides) > 1:
            raise ValueError(f"the shards in {folder} have images of several sizes {sorted(sides)}: "
                             "use one folder for each size")
        self.images = torch.from_numpy(join(shards, "image"))
        self.labels = torch.from_numpy(join(shards, "label"))
        self.captions: list[str] = join(shards, "caption").tolist()
        self.attributes: list[dict[str, str]] = list(map(json.loads, join(shards, "attributes").tolist()))

    def __len__(self) -> int:
        return len(self.captions)

    def get_channels_first(self, index: Tensor) -> Tensor:
        """Images (B, 3, S, S) uint8."""
        return self.images[index].permute(0, 3, 1, 2)

    def get_batch(self, index: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and label maps (B, S, S) uint8, mirrored where the (B,) bools say so."""
        return mirror(self.get_channels_first(index), self.labels[index], mirrored)


def join(shards: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """One array of all shards."""
    return np.concatenate([shard[name] for shard in shards])
