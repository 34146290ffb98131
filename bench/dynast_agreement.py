"""Whether the looks of an exemplar arrive in the layout of another face (docs/training/dynast.md).

    python dev.py bench dynast_agreement FILE.safetensors [--heldout FOLDER] [--fit FOLDER] [--count N]
                                           [--sheet FILE.jpg]

FILE is a generator of DynaST in the published layout, the folders hold renders. Each held-out face's map is drawn with
the next face as exemplar. `distance` is that of a part's mean colour to the exemplar's, in levels of 255; `named` is
the share of pictures in which a rule, fitted on renders, reads the colour that the exemplar has. Both stand beside the
same number for a shuffled exemplar, that is any other of the set; `nearer` is the share of these that are further
away than the own one, 0.5 by chance. `ceiling` is how often the rule is right on the true renders.
The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import comfy.utils
from mditface.mdit.dynast.host import PatchedDynaST, load
from mditface.mdit.dynast.label import Label
from mditface.mdit.evaluation.colors import PARTS, ColorRule
from mditface.mdit.datasets import open_faces
from mditface.mdit.recipes.dynast.heldout import HeldOut, Synthesize
from mditface.mdit.evaluation.evaluate import read_appearances
from mditface.mdit.training.sampling import make_sheet

SHEET_COUNT, SHEET_SCALE = 12, 2

Looks = list[dict[str, str]]


def synthesiser(model: PatchedDynaST) -> Synthesize:
    """What the node does, on bytes."""
    def synthesise(seg: Tensor, ref_image: Tensor, ref_seg: Tensor) -> tuple[Tensor, Tensor]:
        made = model.synthesize(Label(seg), ref_image.movedim(1, -1) / 255, Label(ref_seg))
        return tuple((x * 255).round().byte().cpu() for x in (made.image, made.warped))
    return synthesise


def fit_rules(folder: Path, size: int) -> list[ColorRule]:
    """A rule for each part's colour."""
    faces = open_faces(folder, size)
    samples = [faces[i] for i in range(len(faces))]
    images = [sample["image"].permute(1, 2, 0).numpy() for sample in samples]
    labels = [sample["labels"].numpy() for sample in samples]
    return [ColorRule(attribute, images, labels, read_appearances(folder)) for attribute in PARTS]


def named(rule: ColorRule, pictures: Tensor, held: HeldOut, looks: Looks, exemplars: list[int]) -> dict[str, float]:
    """Shares of the pictures that have the colour of the own exemplar's look, and of any other's."""
    seen = [rule(picture, labels) for picture, labels in zip(pictures.numpy(), held.labels.numpy())]
    asked = [looks[k][rule.attribute] for k in exemplars]
    rows = [i for i, name in enumerate(seen) if name and asked[i] != "none"]
    hits = np.array([[seen[i] == asked[k] for k in rows] for i in rows])  # (n, n)
    others = ~np.eye(len(rows), dtype=bool)
    return {"named": float(hits.diagonal().mean()), "named_shuffled": float(hits[others].mean())}


def measure(held: HeldOut, looks: Looks, rules: list[ColorRule], pictures: Tensor, exemplars: list[int]
            ) -> dict[str, dict[str, float]]:
    """By part, what the module's text tells."""
    rules = {rule.attribute: rule for rule in rules}
    images, labels = held.images.movedim(1, -1).numpy(), held.labels.numpy()
    return {part: row | named(rules[part], pictures, held, looks, exemplars)
            | {"ceiling": rules[part].accuracy(images, labels, looks)["accuracy"]}
            for part, row in held.agreement(pictures, exemplars).items()}


def table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| part | pictures | distance | shuffled | nearer | named | shuffled | ceiling |",
             "| --- |" + " --- |" * 7]
    for part, row in results.items():
        lines.append(f"| {part} | {row['count']} | {row['own']:.1f} | {row['shuffled']:.1f} | {row['nearer']:.3f} "
                     f"| {row['named']:.3f} | {row['named_shuffled']:.3f} | {row['ceiling']:.3f} |")
    return "\n".join(lines)


def save_sheet(path: Path, held: HeldOut, exemplars: list[int], warped: Tensor, pictures: Tensor) -> None:
    """Maps, exemplars, warped exemplars and pictures, one below the other."""
    chosen = exemplars[:SHEET_COUNT]
    rows = held.images[chosen].movedim(1, -1), warped[:SHEET_COUNT], pictures[:SHEET_COUNT]
    sheet = Image.fromarray(make_sheet(held.labels[:SHEET_COUNT], *rows))
    sheet.resize([SHEET_SCALE * side for side in sheet.size], Image.Resampling.BICUBIC).save(path, quality=92)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench dynast_agreement", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("weights", type=Path, metavar="FILE", help="the generator")
    add("--heldout", type=Path, default=Path("data", "heldout"), help="renders (default: data/heldout)")
    add("--fit", type=Path, default=Path("data", "pairs"), help="renders to fit the rules on (default: data/pairs)")
    add("--count", type=int, default=400, help="held-out faces (default: 400)")
    add("--sheet", type=Path, help="a picture of the first twelve to write")
    options = parser.parse_args(argv)
    if options.count < 2:
        parser.error("--count must be at least 2: an exemplar is another face")
    try:
        model = load(str(options.weights))
        size = model.network.config.size
        held = HeldOut.first_of(open_faces(options.heldout, size), options.count)
        rules = fit_rules(options.fit, size)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    comfy.utils.set_progress_bar_enabled(False)
    exemplars = held.next(len(held.images))
    pictures, warped = held.draw(exemplars, synthesiser(model))
    if options.sheet:
        save_sheet(options.sheet, held, exemplars, warped, pictures)
    results = measure(held, read_appearances(options.heldout), rules, pictures, exemplars)
    print(table(results))
    print("\n" + json.dumps({"bench": "dynast_agreement", "count": len(exemplars), "pixels": size, "parts": results}))


if __name__ == "__main__":
    main()
