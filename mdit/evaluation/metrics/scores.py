"""The measures that need a feature network, for a test set, and the choice of them by the user's files."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .distances import frechet_distance, gaussian_mmd, kernel_distance, structure_distance
from .networks import INCEPTION, ClipEmbedding, ClipScore, DinoKeys, Inception

CLIP_LARGE = "clip-vit-large-patch14-336"
CLIP_BASE = "clip-vit-base-patch16"
DINO = "dino_vitbase8_pretrain.pth"
ORIGINS = {INCEPTION: "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" + INCEPTION,
           CLIP_LARGE: "https://huggingface.co/openai/" + CLIP_LARGE,
           CLIP_BASE: "https://huggingface.co/openai/" + CLIP_BASE,
           DINO: "https://dl.fbaipublicfiles.com/dino/dino_vitbase8_pretrain/" + DINO}
FILES = {"fid": INCEPTION, "kid": INCEPTION, "cmmd": CLIP_LARGE, "text": CLIP_BASE, "structure": DINO}


class Score(Protocol):
    """Gathers pairs of generated and real images (B, 3, H, W) uint8 with their captions."""

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None: ...

    def compute(self) -> dict[str, dict[str, float]]:
        """Values by measure: `generated`, and `real` for a measure that has one."""


class SetDistances:
    """Distances between the features of all real images and of all generated images."""

    def __init__(self, network: Callable[[Tensor], Tensor], distances: dict[str, Callable[[Tensor, Tensor], float]]):
        self.network = network
        self.distances = distances
        self.real = []
        self.generated = []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.generated.append(self.network(generated))
        self.real.append(self.network(real))

    def compute(self) -> dict[str, dict[str, float]]:
        real = torch.cat(self.real)
        generated = torch.cat(self.generated)
        return {name: {"generated": distance(real, generated)} for name, distance in self.distances.items()}


class TextScore:
    """Mean agreement with the captions, of the generated and of the real images."""

    def __init__(self, network: Callable[[Tensor, list[str]], Tensor]):
        self.network = network
        self.generated = []
        self.real = []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.generated.append(self.network(generated, captions))
        self.real.append(self.network(real, captions))

    def compute(self) -> dict[str, dict[str, float]]:
        return {"text": {"generated": torch.cat(self.generated).mean().item(),
                         "real": torch.cat(self.real).mean().item()}}


class StructureScore:
    """Mean structure distance of an image. Peers publish sums over batches of 64: 64 times as much."""

    def __init__(self, network: Callable[[Tensor], Tensor]):
        self.network = network
        self.distances = []

    def update(self, generated: Tensor, real: Tensor, captions: list[str]) -> None:
        self.distances.append(structure_distance(self.network(real), self.network(generated)).cpu())

    def compute(self) -> dict[str, dict[str, float]]:
        return {"structure": {"generated": torch.cat(self.distances).mean().item()}}


def open_scores(folder: Path | None, size: int, device: torch.device) -> tuple[list[Score], dict[str, str]]:
    """The scores whose weights are in a folder, and the reason why each other measure is left out.

    Expected: `inception-2015-12-05.pt` (clean-fid's TorchScript Inception), the folders `clip-vit-large-patch14-336`
    and `clip-vit-base-patch16` in transformers' layout, and `dino_vitbase8_pretrain.pth` as published.
    size: side of the images in pixels. Raises FileNotFoundError for a missing folder.
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
    present = {file for file in makers if folder is not None and (folder / file).exists()}
    where = "--weights, which was not given" if folder is None else str(folder)
    skipped = {name: f"no {file} in {where}; published at {ORIGINS[file]}" for name, file in FILES.items()
               if file not in present}
    return [make(folder / file) for file, make in makers.items() if file in present], skipped
