"""The measures that need a feature network, over a test set, and which of them the user's files allow."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .distances import frechet_distance, gaussian_mmd, kernel_distance, structure_distance
from .networks import INCEPTION, ClipEmbedding, ClipScore, DinoKeys, Inception

CLIP_LARGE, CLIP_BASE, DINO = "clip-vit-large-patch14-336", "clip-vit-base-patch16", "dino_vitbase8_pretrain.pth"
FILES = {"fid": INCEPTION, "kid": INCEPTION, "cmmd": CLIP_LARGE, "text": CLIP_BASE, "structure": DINO}


class Score(Protocol):
    """Gathers pairs of generated and real pictures (B, 3, H, W) uint8 with their captions."""

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None: ...

    def compute(self) -> dict[str, dict[str, float]]:
        """The values under the measures' names: `generated`, and where it says something `real`."""


class SetDistances:
    """Distances between all features of the real pictures and all of the generated ones."""

    def __init__(self, network: Callable[[Tensor], Tensor], distances: dict[str, Callable[[Tensor, Tensor], float]]):
        self.network, self.distances = network, distances
        self.real, self.generated = [], []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.generated.append(self.network(generated))
        self.real.append(self.network(real))

    def compute(self) -> dict[str, dict[str, float]]:
        sets = torch.cat(self.real), torch.cat(self.generated)
        return {name: {"generated": distance(*sets)} for name, distance in self.distances.items()}


class TextScore:
    """Mean agreement with the captions, of the generated and of the real pictures."""

    def __init__(self, network: Callable[[Tensor, list[str]], Tensor]):
        self.network, self.generated, self.real = network, [], []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.generated.append(self.network(generated, captions))
        self.real.append(self.network(real, captions))

    def compute(self) -> dict[str, dict[str, float]]:
        return {"text": {"generated": torch.cat(self.generated).mean().item(),
                         "real": torch.cat(self.real).mean().item()}}


class StructureScore:
    """Mean over the pictures of the structure distance. Peers publish sums over batches of 64: 64 times as much."""

    def __init__(self, network: Callable[[Tensor], Tensor]):
        self.network, self.distances = network, []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.distances.append(structure_distance(self.network(real), self.network(generated)).cpu())

    def compute(self) -> dict[str, dict[str, float]]:
        return {"structure": {"generated": torch.cat(self.distances).mean().item()}}


def open_scores(folder: Path | None, size: int, device: torch.device) -> tuple[list[Score], dict[str, str]]:
    """The scores whose weights lie in a folder, and why each other measure is left out.

    Expected: `inception-2015-12-05.pt` (clean-fid's TorchScript Inception), the folders `clip-vit-large-patch14-336`
    and `clip-vit-base-patch16` in transformers' layout, and `dino_vitbase8_pretrain.pth` as published.
    size: side in pixels of the pictures. Raises FileNotFoundError for a folder that is not there.
    """
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"weights: no folder {folder}: give the one that holds some of "
                                f"{', '.join(dict.fromkeys(FILES.values()))}")
    makers: dict[str, Callable[[Path], Score]] = {
        INCEPTION: lambda path: SetDistances(Inception(path.parent, device),
                                             {"fid": frechet_distance, "kid": kernel_distance}),
        CLIP_LARGE: lambda path: SetDistances(ClipEmbedding(path, device), {"cmmd": gaussian_mmd}),
        CLIP_BASE: lambda path: TextScore(ClipScore(path, device)),
        DINO: lambda path: StructureScore(DinoKeys(path, size, device)),
    }
    there = {file for file in makers if folder is not None and (folder / file).exists()}
    skipped = {name: f"no {file} in " + ("--weights, which was not given" if folder is None else str(folder))
               for name, file in FILES.items() if file not in there}
    return [make(folder / file) for file, make in makers.items() if file in there], skipped
