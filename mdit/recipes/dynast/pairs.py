"""Pairs of a face and an exemplar, in random crops, with the labels that DynaST reads (dynast spec, sections 4 and 10).
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from ...dynast.face import build_face_label, split_parts
from ...datasets import FaceDataset
from ...datasets.augment import mirror_sample
from ...training.settings import Section, Fraction

PEOPLE_FILE = "people.txt"


class Exemplars(Section):
    """Whose picture a sample's exemplar is: the sample's `own` under a second crop and flip, another one of the same
    `person`, or any `other`, where the true picture is unknown and only the discriminator judges. Shares; their sum
    is 1."""
    own: Fraction = 1.0
    person: Fraction = 0.0
    other: Fraction = 0.0

    @model_validator(mode="after")
    def whole(self):
        if abs(self.own + self.person + self.other - 1) > 1e-6:
            raise ValueError(f"own {self.own}, person {self.person} and other {self.other} must add up to 1")
        return self


def read_people(source: Path, names: Sequence[str]) -> list[str]:
    """The person of each named sample, by lines `NAME PERSON` of people.txt; a sample without a line is its own."""
    path = source / PEOPLE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"data: no {path}: lines 'NAME PERSON' must say which pictures show one person; or set "
                                "exemplars.person to 0")
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if bad := [row for row in rows if len(row) != 2]:
        raise ValueError(f"data: {path}: '{' '.join(bad[0])}' is no line of a name and a person")
    people = {Path(name).stem: person for name, person in rows}
    return [people.get(name, name) for name in names]


def edge_label(sample: dict, number: int) -> Tensor:
    """The label (15, S, S) uint8 of a face of a data set, the one of this number there."""
    parts = split_parts(sample["labels"].numpy(), number)
    picture = sample["image"].permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(build_face_label(picture, parts, len(picture)))


class Pairs:
    """dict(image, ref_image (3, S, S), seg, ref_seg (nc, S, S) uint8, known) of faces of a side of `load` pixels.

    size: S. flip: share of mirrored pictures. people: of each face, for exemplars of the same person.
    """

    def __init__(self, faces: FaceDataset, size: int, exemplars: Exemplars, flip: float, people: Sequence[str] = ()):
        self.faces, self.size, self.flip = faces, size, flip
        self.sources = np.array([exemplars.own, exemplars.person, exemplars.other])
        groups = defaultdict(list)
        for i, person in enumerate(people):
            groups[person].append(i)
        self.kin = [groups[person] for person in people]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        source = ("own", "person", "other")[rng.choice(3, p=self.sources)]
        exemplar = {"own": lambda: index, "person": lambda: self.relative(index, rng),
                    "other": lambda: int(rng.integers(len(self.faces)))}[source]()
        (image, seg), (ref_image, ref_seg) = self.view(index, rng), self.view(exemplar, rng)
        return {"image": image, "seg": seg, "ref_image": ref_image, "ref_seg": ref_seg,
                "known": torch.tensor(float(source != "other"))}

    def relative(self, index: int, rng: np.random.Generator) -> int:
        """Another picture of the same person, or the same where there is none."""
        others = [i for i in self.kin[index] if i != index]
        return int(rng.choice(others)) if others else index

    def view(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A crop of a face and of its label."""
        sample = self.faces[index]
        if rng.random() < self.flip:
            sample = mirror_sample(sample)
        image, label = sample["image"], edge_label(sample, index)
        top, left = rng.integers(image.shape[-1] - self.size + 1, size=2)
        window = ..., slice(top, top + self.size), slice(left, left + self.size)
        return image[window], label[window]
