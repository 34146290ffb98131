"""Pairs of a face and an exemplar in random crops, with DynaST's labels (docs/design/dynast.md, sections 4 and 10)."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from ...dynast.face import build_face_label, require_face, split_parts
from ...datasets import FaceDataset
from ...datasets.augment import mirror_sample
from ...shared.text_files import read_text
from ...training.settings import Section, Fraction

PEOPLE_FILE = "people.txt"


class Exemplars(Section):
    """Fractions of three kinds of exemplars. Their sum is 1.

    own: the same image under a second crop and flip.
    person: another image of the same person.
    other: any other image. The true image is unknown, and only the discriminator judges.
    """
    own: Fraction = 1.0
    person: Fraction = 0.0
    other: Fraction = 0.0

    @model_validator(mode="after")
    def check_sum(self):
        if abs(self.own + self.person + self.other - 1) > 1e-6:
            raise ValueError(f"own {self.own}, person {self.person} and other {self.other} must add up to 1")
        return self


def read_people(source: Path, names: Sequence[str]) -> list[str]:
    """The person of each sample, by lines `NAME PERSON` of people.txt. A sample without a line has its own person."""
    path = source / PEOPLE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"data: no {path}: lines 'NAME PERSON' must say which images show one person; or set "
                                "exemplars.person to 0")
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if bad := [row for row in rows if len(row) != 2]:
        raise ValueError(f"data: {path}: '{' '.join(bad[0])}' is no line of a name and a person")
    people = {Path(name).stem: person for name, person in rows}
    return [people.get(name, name) for name in names]


def make_edge_label(sample: dict, number: int) -> Tensor:
    """The label (15, S, S) uint8 of a sample, which has this number in the data set."""
    parts = split_parts(sample["labels"].numpy())
    require_face(parts, number)
    image = sample["image"].permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(build_face_label(image, parts, len(image)))


class Pairs:
    """dict(image, ref_image (3, S, S), seg, ref_seg (nc, S, S) uint8, known) of faces of a side of `load` pixels.

    size: S. flip: fraction of mirrored images. people: the person of each face, for exemplars of the same person.
    """

    def __init__(self, faces: FaceDataset, size: int, exemplars: Exemplars, flip: float, people: Sequence[str] = ()):
        self.faces = faces
        self.size = size
        self.flip = flip
        self.sources = np.array([exemplars.own, exemplars.person, exemplars.other])
        groups = defaultdict(list)
        for i, person in enumerate(people):
            groups[person].append(i)
        self.same_person = [groups[person] for person in people]

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        source = ("own", "person", "other")[rng.choice(3, p=self.sources)]
        exemplar = index
        if source == "person":
            exemplar = self.choose_another(index, rng)
        elif source == "other":
            exemplar = int(rng.integers(len(self.faces)))
        image, seg = self.cut_view(index, rng)
        ref_image, ref_seg = self.cut_view(exemplar, rng)
        return {"image": image, "seg": seg, "ref_image": ref_image, "ref_seg": ref_seg,
                "known": torch.tensor(float(source != "other"))}

    def choose_another(self, index: int, rng: np.random.Generator) -> int:
        """Another image of the same person, or the same image if there is none."""
        others = [i for i in self.same_person[index] if i != index]
        return int(rng.choice(others)) if others else index

    def cut_view(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """A crop of a face and of its label."""
        sample = self.faces[index]
        if rng.random() < self.flip:
            sample = mirror_sample(sample)
        image = sample["image"]
        label = make_edge_label(sample, index)
        top, left = rng.integers(image.shape[-1] - self.size + 1, size=2)
        window = ..., slice(top, top + self.size), slice(left, left + self.size)
        return image[window], label[window]
