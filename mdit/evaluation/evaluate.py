"""Score a model on a test folder: ``python -m mdit.evaluation.evaluate --source FOLDER --model FILE --out OUT``.

Pictures are drawn by the host's samplers and kept in OUT: the same command goes on where it stopped. The report says
which measures were left out and why. Label agreement stands beside the parser's own ceiling, the same number on the
real pictures.
"""
from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..training import host  # noqa: F401  (before any other module of the host)
import comfy.model_management
import comfy.utils

from ..mditface.reductions import REDUCTIONS
from ..parsing import WEIGHTS as PARSER_WEIGHTS
from ..datasets import Renders, open_dataset
from .generate import Generator, Options, fill_folder, load_models, picture_folder, picture_path
from .metrics.agreement import LabelAgreement, Parser, open_parser
from .metrics.attributes import AttributeAccuracy, AttributeRules
from .metrics.scores import Score, open_scores
from ..render.caption import Caption
from .report import write_report

DEFAULT_SIZE = 512
SCORE_BATCH = 16


class Samples:
    """Samples dict(image (3, H, W) uint8, labels (H, W) uint8, caption, look) of a data set, with their numbers.

    The caption is a sample's first. Renders are asked for by the short caption of their look, which is None elsewhere.
    """

    def __init__(self, dataset, first: int = 0, count: int | None = None, looks: list[dict] | None = None):
        self.dataset, self.first, self.looks = dataset, first, looks
        self.count = len(dataset.names[first:]) if count is None else min(count, len(dataset.names[first:]))
        if self.count < 1:
            raise ValueError(f"the data set has {len(dataset.names)} samples, none from number {first} on")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        for number, sample in enumerate(itertools.islice(self.samples(), self.count), self.first):
            look = self.looks[number] if self.looks else None
            caption = Caption.short(look) if look else next(iter(sample["captions"]), "")
            yield number, {**sample, "caption": caption, "look": look}

    def samples(self) -> Iterator[dict]:
        if hasattr(self.dataset, "__getitem__"):
            return (self.dataset[i] for i in range(self.first, self.first + self.count))
        return itertools.islice(self.dataset, self.first, None)  # a stream of tar shards


def rendered_looks(source: Path) -> list[dict] | None:
    """The looks of a folder of renders, in the data set's order; None for any other folder."""
    return Renders(source).attributes if any(source.glob("*.npz")) else None


def score_networks(pairs: Iterator[tuple[np.ndarray, dict]], scores: list[Score]) -> dict:
    """Values of the measures that need a network, of (picture, sample) pairs."""
    while chunk := list(itertools.islice(pairs, SCORE_BATCH)):
        pictures, samples = zip(*chunk)
        generated = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        real, captions = torch.stack([s["image"] for s in samples]), [s["caption"] for s in samples]
        for score in scores:
            score.update(generated, real, captions)
    return {name: value for score in scores for name, value in score.compute().items()}


def score_labels(pairs: Iterator[tuple[np.ndarray, dict]], parser: Parser, rules: AttributeRules | None) -> dict:
    """Label agreement, and with rules the looks, of the generated and of the real pictures of (picture, sample)."""
    agreements = {side: LabelAgreement(parser) for side in ("generated", "real")}
    accuracies = {side: AttributeAccuracy(rules) for side in agreements}
    for picture, sample in pairs:
        asked = sample["labels"].numpy()
        images = {"generated": picture, "real": sample["image"].permute(1, 2, 0).contiguous().numpy()}
        for side, image in images.items():
            parsed = agreements[side].update(image, asked)
            if rules and sample["look"]:
                accuracies[side].update(image, asked, parsed, sample["look"])
    return {"labels": {side: agreement.compute() for side, agreement in agreements.items()},
            "attributes": {side: accuracy.compute() for side, accuracy in accuracies.items()}}


def drawn(folder: Path, samples: Samples, what: str) -> Iterator[tuple[np.ndarray, dict]]:
    """The pictures (S, S, 3) uint8 of a folder with their samples, under a progress bar."""
    for number, sample in tqdm(samples, desc=what):
        with Image.open(picture_path(folder, number)) as picture:
            yield np.array(picture.convert("RGB")), sample


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mdit.evaluation.evaluate", description=__doc__.partition("\n")[0])
    defaults = Options()
    add = parser.add_argument
    add("--source", type=Path, required=True, help="test folder, in any layout of mdit.datasets")
    add("--model", type=Path, required=True, help="stand-alone MDiT file; with --adapter a checkpoint of SD3 or FLUX")
    add("--out", type=Path, required=True, help="folder of pictures, report.json, report.md and sheet.png")
    add("--adapter", type=Path, help="mask adapter for the checkpoint")
    add("--first", type=int, default=0, help="number of the first sample, for a split (default: 0)")
    add("--count", type=int, help="number of samples (default: all)")
    add("--size", type=int, help=f"side of the pictures (default: the model's, else {DEFAULT_SIZE})")
    add("--batch", type=int, default=16, help="pictures drawn together (default: 16)")
    add("--steps", type=int, default=defaults.steps)
    add("--cfg", type=float, default=defaults.cfg, help=f"guidance by the text (default: {defaults.cfg})")
    add("--mask-cfg", type=float, default=defaults.mask_cfg, help=f"by the mask (default: {defaults.mask_cfg})")
    add("--seed", type=int, default=defaults.seed)
    add("--sampler-name", default=defaults.sampler_name)
    add("--scheduler", default=defaults.scheduler)
    add("--token-reduction", choices=list(REDUCTIONS), default=defaults.token_reduction)
    add("--weights", type=Path, help="folder of the measures' networks (see mdit/evaluation/metrics/scores.py)")
    add("--parser", default=str(PARSER_WEIGHTS), help="weights or module:function (default: the bundled judge)")
    add("--fit", type=Path, help="folder of renders to fit the rules for colours and looks on")
    args = parser.parse_args(argv)
    for name in ("count", "size", "batch", "steps"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    comfy.utils.set_progress_bar_enabled(False)
    parser, models = open_parser(args.parser), load_models(args.model, args.adapter)
    size = args.size or models.size or DEFAULT_SIZE
    samples = Samples(open_dataset(args.source, size), args.first, args.count, rendered_looks(args.source))
    scores, skipped = open_scores(args.weights, size, comfy.model_management.get_torch_device())
    rules = AttributeRules(Renders(args.fit), parser) if args.fit and samples.looks else None
    if rules is None:
        skipped["attributes"] = "they need renders in --source and --fit"
    options = Options(**{name: getattr(args, name) for name in Options.__dataclass_fields__})
    folder = picture_folder(args.out, filter(None, (args.model, args.adapter)), str(args.source.resolve()), size,
                            options)
    fill_folder(folder, tqdm(samples, desc="pictures"), Generator(models, options, size), args.batch)
    report = {"model": str(args.model), "count": len(samples), "size": size, "options": vars(options),
              "skipped": skipped,
              "measures": score_networks(drawn(folder, samples, "networks"), scores) if scores else {},
              **score_labels(drawn(folder, samples, "labels"), parser, rules)}
    table = write_report(args.out, report, ((picture, sample["image"], sample["labels"])
                                            for picture, sample in drawn(folder, samples, "sheet")))
    print(table)


if __name__ == "__main__":
    sys.exit(main())
