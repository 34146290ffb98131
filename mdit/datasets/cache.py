"""Encoded samples on disk: latents and text embeddings that the models need not compute again."""
from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from .faces import FaceDataset


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class CachedDataset(Dataset):
    """What `encode` makes of each sample, from one safetensors file a sample, and its name.

    dataset: samples by index, with `names` and `sizes`.
    encode: sample -> dict of tensors of any shape. Everything that training reads must be among them.
    folder: of the files; each data set needs its own, since samples are told apart by name and size.
    key: what else the tensors depend on, as JSON values: digests of the model files, settings of the encoding.
        Another key means other files: none is ever stale.
    Without `fill` a sample is encoded when it is first read, in the process that reads it.
    """

    def __init__(self, dataset: FaceDataset, encode: Callable[[dict[str, Any]], dict[str, Tensor]], folder: Path | str,
                 key: Mapping[str, Any]):
        self.dataset, self.encode, self.folder = dataset, encode, Path(folder)
        self.key = json.dumps(key, sort_keys=True)
        self.names, self.sizes = dataset.names, dataset.sizes
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        told = json.dumps([self.names[index], *self.sizes[index], self.key])
        return self.folder / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.path(index)
        if not path.exists():
            self.store(index)
        return {**load_file(path), "name": self.names[index]}

    def store(self, index: int) -> None:
        """Encodes a sample to its file, written whole or not at all."""
        with torch.no_grad():
            tensors = self.encode(self.dataset[index])
        # The file format has no strides and no two names for one memory.
        tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                   for name, tensor in tensors.items()}
        path = self.path(index)
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.part")
        save_file(tensors, scratch, {"name": self.names[index], "key": self.key})
        os.replace(scratch, path)

    def fill(self, rank: int = 0, ranks: int = 1) -> None:
        """Encodes this process's share of the samples not there yet: the models can be unloaded before training."""
        missing = [index for index in range(rank, len(self), ranks) if not self.path(index).exists()]
        for index in tqdm(missing, "encoding", unit="sample", disable=None):
            self.store(index)
