"""Measure which colours of an exemplar an image takes over.

    python dev.py run -- python -m mdit.recipes.likeness --model FILE --source RENDERS

Each held-out label map is drawn without text after the exemplar of another person. The output compares each part's
colour with that exemplar's and with the exemplar of the next image, also for images drawn without an exemplar. The
last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..training.host import prepare_host

prepare_host()

from ..mditface.text import PAD
from ..parsing import load_parser
from ..evaluation.colors import PARTS
from ..evaluation.metrics.exemplar_agreement import measure_color_distances
from ..datasets import Renders
from .exemplar import make_exemplar_keys
from ..training.sampling import sample, save_sheet
from .targets.demo import Demo

BATCH = 16
SHEET_COUNT = 12
SHIFT = 1  # the exemplar of image i is image i + 1
OTHER = 2  # the other exemplar that image i is compared with is image i + 2
KINDS = ("own exemplar", "another exemplar", "own, drawn without")


class Likeness:
    """Images of the first `count` label maps of a folder of renders, with exemplars (`drawn`) and without (`plain`).

    drawn, plain: (count, S, S, 3) uint8.
    """

    def __init__(self, demo: Demo, faces: Renders, count: int, steps: int):
        self.faces = faces
        self.count = min(count, len(faces))
        self.index = torch.arange(self.count)
        self.drawn = self.draw_all(demo, steps, with_exemplars=True)
        self.plain = self.draw_all(demo, steps, with_exemplars=False)

    def find_exemplar(self, index: Tensor, shift: int = SHIFT) -> Tensor:
        return (index + shift) % self.count

    def draw_all(self, demo: Demo, steps: int, with_exemplars: bool) -> Tensor:
        batches = tqdm(self.index.split(BATCH))
        return torch.cat([self.draw(demo, index, steps, with_exemplars) for index in batches])

    def draw(self, demo: Demo, index: Tensor, steps: int, with_exemplars: bool) -> Tensor:
        labels = self.faces.labels[index]
        keys = None
        if with_exemplars:
            other = self.find_exemplar(index)
            images = self.faces.get_channels_first(other)
            keys = make_exemplar_keys(demo.model, labels, images, self.faces.labels[other])
        ids = torch.full((len(index), demo.text_config.length), PAD)
        return sample(demo.model, demo.text_encoder, labels, ids, seed=int(index[0]), steps=steps, exemplar=keys)

    def measure_distances(self, images: Tensor, shift: int) -> dict[str, float]:
        """Means over the images of each part's colour distance to the exemplar `shift` further."""
        found = {part: [] for part in PARTS}
        faces = self.faces.images.numpy()
        labels = self.faces.labels.numpy()
        for i, j in zip(self.index.tolist(), self.find_exemplar(self.index, shift).tolist()):
            for part, distance in measure_color_distances(images[i].numpy(), labels[i], faces[j], labels[j]).items():
                found[part].append(distance)
        return {part: float(np.mean(values)) for part, values in found.items() if values}

    def measure_agreement(self, images: Tensor) -> float:
        """The fraction of pixels in which the judge sees the asked class."""
        parser = load_parser()
        scores = [parser.measure_agreement(image.numpy(), labels.numpy())["pixel_accuracy"]
                  for image, labels in zip(images, self.faces.labels)]
        return float(np.mean(scores))

    def report(self) -> dict:
        rows = (self.measure_distances(self.drawn, SHIFT), self.measure_distances(self.drawn, OTHER),
                self.measure_distances(self.plain, SHIFT))
        agreement = {"drawn with": self.measure_agreement(self.drawn), "without": self.measure_agreement(self.plain)}
        return {"count": self.count, **dict(zip(KINDS, rows)), "agreement": agreement}

    def save_sheet(self, path: Path) -> None:
        """Label maps, exemplars, images with and without them."""
        first = self.index[:SHEET_COUNT]
        save_sheet(path, self.faces.labels[first], self.faces.images[self.find_exemplar(first)], self.drawn[first],
                   self.plain[first])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.recipes.likeness", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a file trained with exemplar_blocks")
    parser.add_argument("--source", type=Path, required=True, help="held-out renders")
    parser.add_argument("--count", type=int, default=48, help="images to draw (default: 48)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sheet", type=Path, help="write an image of the first ones into this file")
    options = parser.parse_args(arguments)
    demo = Demo.load(options.model)
    if not demo.model.config.exemplar_blocks:
        parser.exit(2, f"model: {options.model} has no exemplar_blocks: train one with configs/exemplar.yaml\n")
    likeness = Likeness(demo, Renders(options.source), options.count, options.steps)
    if options.sheet:
        likeness.save_sheet(options.sheet)
    report = likeness.report()
    print(f"{'colour distance to':20s}" + "".join(f"{part:>18s}" for part in PARTS))
    for kind in KINDS:
        print(f"{kind:20s}" + "".join(f"{report[kind].get(part, float('nan')):18.1f}" for part in PARTS))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
