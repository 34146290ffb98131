"""Encoded samples on disk: latents and text embeddings that need not be computed again."""
from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ..shared.weight_files import read_tensors
from .faces import FaceDataset


class CachedDataset(Dataset):
    """Encoded samples, each with its name, in one safetensors file a sample.

    encode: sample -> dict of tensors of any shape. Training reads these tensors alone.
    folder: of the files.
    key: what else the tensors depend on, as JSON values: digests of the model files, settings of the encoding.
        Another key, name or state of a sample means another file, so no file is ever stale.
    Until `close` is called, a sample that is missing is encoded when it is read, in the process that reads it.
    """

    def __init__(self, dataset: FaceDataset, encode: Callable[[dict[str, Any]], dict[str, Tensor]], folder: Path | str,
                 key: Mapping[str, Any]):
        self.dataset = dataset
        self.encode = encode
        self.folder = Path(folder)
        self.key = json.dumps(key, sort_keys=True)
        self.names = dataset.names
        self.sizes = dataset.sizes
        self.paths: dict[int, Path] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.names)

    def get_path(self, index: int) -> Path:
        """The file of the sample as it was when it was first asked for."""
        if index not in self.paths:
            identity = json.dumps([self.names[index], self.dataset.describe_state(index), self.key])
            self.paths[index] = self.folder / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
        return self.paths[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.get_path(index)
        if not path.exists():
            if self.encode is None:
                raise FileNotFoundError(f"cache: {path} was removed: start the run again")
            self.store(index)
        return read_tensors(str(path), "cache")[0] | {"name": self.names[index]}

    def store(self, index: int) -> None:
        """Encodes a sample into its file. The file appears when it is complete."""
        with torch.no_grad():
            tensors = self.encode(self.dataset[index])
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ValueError(f"data: {self.names[index]}: its {name} is not finite after encoding: look at its "
                                 "files, or use a VAE and text encoders in fp32")
        # The file format has no strides, and no two names for one memory.
        tensors = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                   for name, tensor in tensors.items()}
        path = self.get_path(index)
        scratch = path.with_suffix(f".{uuid.uuid4().hex}.part")
        save_file(tensors, scratch, {"name": self.names[index], "key": self.key})
        os.replace(scratch, path)

    def fill(self, process: int = 0, processes: int = 1) -> None:
        """Encodes every missing sample, or a process's part of all."""
        part = range(process, len(self), processes)
        missing = [index for index in part if not self.get_path(index).exists()]
        for index in tqdm(missing, "encoding", unit="sample", disable=None):
            self.store(index)

    def close(self) -> None:
        """Lets `encode` and its models go, when all processes have encoded their parts."""
        self.encode = None
