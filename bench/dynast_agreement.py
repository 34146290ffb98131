"""Whether the appearance of an exemplar arrives in the layout of another face (docs/training/dynast.md).

    python dev.py bench dynast_agreement FILE.safetensors [--heldout FOLDER] [--fit FOLDER] [--count N]
                                           [--sheet FILE.jpg]

FILE is a generator of DynaST in the published layout; the folders hold renders. The label map of each held-out face is
rendered with the next face as exemplar. The table has one row for each part of the face:

distance    between the mean colors of the part in the result and in the exemplar, in levels of 255
named       fraction of results in which a rule, fitted on renders, reads the color that the exemplar has
shuffled    the same number for all other exemplars of the set
nearer      fraction of the other exemplars that are further away than the true one, 0.5 by chance
ceiling     accuracy of the rule on the true renders

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
from mditface.mdit.dynast.host import PatchedDynaST, load_dynast
from mditface.mdit.dynast.label import Label
from mditface.mdit.evaluation.colors import PARTS, ColorRule
from mditface.mdit.datasets import open_faces
from mditface.mdit.recipes.dynast.heldout import HeldOut, Synthesize
from mditface.mdit.evaluation.evaluate import read_appearances
from mditface.mdit.training.sampling import make_sheet

SHEET_COUNT = 12
SHEET_SCALE = 2

Appearances = list[dict[str, str]]


def wrap_model(model: PatchedDynaST) -> Synthesize:
    """The call of the node, on bytes."""
    def synthesize(seg: Tensor, ref_image: Tensor, ref_seg: Tensor) -> tuple[Tensor, Tensor]:
        made = model.synthesize(Label(seg), ref_image.movedim(1, -1) / 255, Label(ref_seg))
        return to_bytes(made.image), to_bytes(made.warped)
    return synthesize


def to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().byte().cpu()


def fit_rules(folder: Path, size: int) -> dict[str, ColorRule]:
    """A rule for the color of each part."""
    faces = open_faces(folder, size)
    samples = [faces[i] for i in range(len(faces))]
    images = [sample["image"].permute(1, 2, 0).numpy() for sample in samples]
    labels = [sample["labels"].numpy() for sample in samples]
    appearances = read_appearances(folder)
    return {attribute: ColorRule(attribute, images, labels, appearances) for attribute in PARTS}


def count_hits(rule: ColorRule, images: Tensor, held: HeldOut, appearances: Appearances,
               exemplars: list[int]) -> dict[str, float]:
    """Fractions of the images with the color of the true exemplar, and with that of any other."""
    read = [rule(image, labels) for image, labels in zip(images.numpy(), held.labels.numpy())]
    wanted = [appearances[k][rule.attribute] for k in exemplars]
    rows = [i for i, name in enumerate(read) if name and wanted[i] != "none"]
    names = np.array([read[i] for i in rows])
    hits = names[:, None] == np.array([wanted[i] for i in rows])  # (n, n)
    others = ~np.eye(len(rows), dtype=bool)
    return {"named": float(hits.diagonal().mean()), "named_shuffled": float(hits[others].mean())}


def measure(held: HeldOut, appearances: Appearances, rules: dict[str, ColorRule], images: Tensor,
            exemplars: list[int]) -> dict[str, dict[str, float]]:
    """The numbers of each part, as the text of this module describes them."""
    true_images = held.images.movedim(1, -1).numpy()
    labels = held.labels.numpy()
    results = {}
    for part, row in held.measure_agreement(images, exemplars).items():
        hits = count_hits(rules[part], images, held, appearances, exemplars)
        ceiling = rules[part].measure_accuracy(true_images, labels, appearances)["accuracy"]
        results[part] = row | hits | {"ceiling": ceiling}
    return results


def format_table(results: dict[str, dict[str, float]]) -> str:
    lines = ["| part | images | distance | shuffled | nearer | named | shuffled | ceiling |",
             "| --- |" + " --- |" * 7]
    for part, row in results.items():
        lines.append(f"| {part} | {row['count']} | {row['own']:.1f} | {row['shuffled']:.1f} | {row['nearer']:.3f} "
                     f"| {row['named']:.3f} | {row['named_shuffled']:.3f} | {row['ceiling']:.3f} |")
    return "\n".join(lines)


def save_sheet(path: Path, held: HeldOut, exemplars: list[int], warped: Tensor, images: Tensor) -> None:
    """Label maps, exemplars, warped exemplars and results, one below the other."""
    chosen = held.images[exemplars[:SHEET_COUNT]].movedim(1, -1)
    sheet = Image.fromarray(make_sheet(held.labels[:SHEET_COUNT], chosen, warped[:SHEET_COUNT],
                                          images[:SHEET_COUNT]))
    sheet.resize([SHEET_SCALE * side for side in sheet.size], Image.Resampling.BICUBIC).save(path, quality=92)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench dynast_agreement", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("weights", type=Path, metavar="FILE", help="file of the generator")
    add("--heldout", type=Path, default=Path("data", "heldout"), help="renders (default: data/heldout)")
    add("--fit", type=Path, default=Path("data", "pairs"), help="renders to fit the rules on (default: data/pairs)")
    add("--count", type=int, default=400, help="number of held-out faces (default: 400)")
    add("--sheet", type=Path, help="image file for the first twelve results")
    options = parser.parse_args(argv)
    if options.count < 2:
        parser.error("--count must be at least 2: an exemplar is another face")
    try:
        model = load_dynast(str(options.weights))
        size = model.network.config.size
        held = HeldOut.take_first(open_faces(options.heldout, size), options.count)
        rules = fit_rules(options.fit, size)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    comfy.utils.set_progress_bar_enabled(False)
    exemplars = held.choose_exemplars(len(held.images))
    images, warped = held.draw(exemplars, wrap_model(model))
    if options.sheet:
        save_sheet(options.sheet, held, exemplars, warped, images)
    results = measure(held, read_appearances(options.heldout), rules, images, exemplars)
    print(format_table(results))
    print("\n" + json.dumps({"bench": "dynast_agreement", "count": len(exemplars), "pixels": size, "parts": results}))


if __name__ == "__main__":
    main()
