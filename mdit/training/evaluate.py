"""Score the model on held-out label maps: ``python -m mdit.training.evaluate --data HELDOUT --train TRAIN``.

Every number stands beside the same number on the true renders of the same maps: that is the judge's ceiling.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .host import set_training  # before any other module of the host

from ..labelmap import CLASSES
from ..parsing import WEIGHTS as PARSER_WEIGHTS
from ..parsing import FaceParser, load_parser, score
from .colors import PARTS, ColorRule
from .data import Faces
from .render.caption import Caption
from .sampling import sample, save_sheet
from .train import WEIGHTS, Demo
from .words import CaptionWriter

FIT_COUNT = 2000  # renders that the colour rules are fitted on
BATCH = 25


def generate(demo: Demo, heldout: Faces, count: int, mask_scale: float, text_scale: float) -> np.ndarray:
    """One picture (S, S, 3) uint8 for each of the first maps, from its look's short caption."""
    writer = CaptionWriter(demo.text_config, seed=0)
    ids = writer.encode([Caption.short(look) for look in heldout.attributes[:count]])
    starts = tqdm(range(0, count, BATCH), unit_scale=BATCH, desc="pictures")
    return torch.cat([
        sample(demo.model, demo.text_encoder, heldout.labels[i:min(i + BATCH, count)], ids[i:i + BATCH], seed=i,
               mask_scale=mask_scale, text_scale=text_scale) for i in starts]).numpy()


def mask_scores(parser: FaceParser, images: np.ndarray, labels: np.ndarray) -> dict:
    """Means over the pictures, and each class's intersection over union over all their pixels."""
    parsed = np.stack([parser.parse(image) for image in images])
    scores = [score(p, label) for p, label in zip(parsed, labels)]
    both = [((parsed == c) & (labels == c)).sum() for c in range(len(CLASSES))]
    either = [((parsed == c) | (labels == c)).sum() for c in range(len(CLASSES))]
    return {name: float(np.mean([s[name] for s in scores])) for name in scores[0]} | {
        "class_iou": {name: float(a / max(1, b)) for name, a, b in zip(CLASSES, both, either)}}


def color_scores(rules: list[ColorRule], images: np.ndarray, heldout: Faces) -> dict[str, dict[str, float]]:
    """The rules' accuracies on pictures of the first maps."""
    count = len(images)
    return {rule.attribute: rule.accuracy(images, heldout.labels[:count].numpy(), heldout.attributes[:count])
            for rule in rules}


def table(report: dict) -> str:
    """The report as text."""
    generated, true = report["generated"], report["true"]
    rows = [(name, generated[name], true[name]) for name in ("pixel_accuracy", "mean_iou")]
    rows += [(f"IoU {name}", generated["class_iou"][name], true["class_iou"][name]) for name in CLASSES]
    rows += [(f"{name} ({row['count']})", row["accuracy"], true["colors"][name]["accuracy"])
             for name, row in generated["colors"].items()]
    lines = [f"{name:28s} {a:9.3f} {b:12.3f}" for name, a, b in rows]
    return "\n".join([f"{'':28s} {'generated':>9s} {'true renders':>12s}", *lines])


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m mdit.training.evaluate", description=__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder of held-out shards")
    arguments.add_argument("--train", type=Path, required=True, help="folder of shards to fit the colour rules on")
    arguments.add_argument("--count", type=int, default=200)
    arguments.add_argument("--weights", type=Path, default=WEIGHTS)
    arguments.add_argument("--parser", type=Path, default=PARSER_WEIGHTS)
    arguments.add_argument("--mask-scale", type=float, default=1.5)
    arguments.add_argument("--text-scale", type=float, default=3.0)
    arguments.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="folder of report and sheet")
    args = arguments.parse_args()
    set_training()
    heldout, fitted = Faces(args.data), Faces(args.train)
    count = min(args.count, len(heldout))
    started = time.monotonic()
    images = generate(Demo.load(args.weights), heldout, count, args.mask_scale, args.text_scale)
    seconds = (time.monotonic() - started) / count
    parser, labels = load_parser(args.parser), heldout.labels[:count].numpy()
    rules = [ColorRule(name, fitted.images[:FIT_COUNT].numpy(), fitted.labels[:FIT_COUNT].numpy(),
                       fitted.attributes[:FIT_COUNT]) for name in PARTS]
    report = {"count": count, "mask_scale": args.mask_scale, "text_scale": args.text_scale,
              "seconds_per_picture": seconds}
    for name, pictures in (("generated", images), ("true", heldout.images[:count].numpy())):
        report[name] = mask_scores(parser, pictures, labels) | {"colors": color_scores(rules, pictures, heldout)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.json").write_text(json.dumps(report, indent=1))
    (args.out / "report.txt").write_text(table(report) + "\n")
    save_sheet(args.out / "sheet.png", heldout.labels[:36], torch.from_numpy(images[:36]), heldout.images[:36])
    print(table(report))


if __name__ == "__main__":
    main()
