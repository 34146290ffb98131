"""Score a model on a test folder: ``python dev.py evaluate --source FOLDER --model FILE --out OUT``.

The host's samplers draw the images. OUT keeps them, so that the same command resumes an interrupted run. Several
machines draw a share each (--shard) into one OUT, and --gather then makes the report. It names the measures that were
left out and the reasons. Label agreement stands next to the parser's own ceiling: the same number on the real images.
"""
from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..training.host import prepare_host

prepare_host()

import comfy.model_management
import comfy.utils

from ..mditface.reductions import REDUCTIONS
from ..parsing import WEIGHTS as PARSER_WEIGHTS
from ..datasets import FaceDataset, Renders, open_dataset
from ..datasets.decoding import open_rgb
from .generate import (
    Generator, Options, fill_folder, load_models, make_image_folder, make_image_path, require_images)
from .metrics.agreement import LabelAgreement, Parser, open_parser
from .metrics.attributes import AttributeAccuracy, AttributeRules
from .metrics.scores import Score, open_scores
from ..render.caption import Caption
from .report import write_report

DEFAULT_SIZE = 512
SCORE_BATCH = 16


class Samples:
    """Samples dict(image (3, H, W) uint8, labels (H, W) uint8, caption, appearance) of a data set, with their numbers.

    The caption is a sample's first one, or for renders the short caption of their appearance. The appearance is None
    for other data sets.
    """

    def __init__(self, dataset, first: int = 0, count: int | None = None, appearances: list[dict] | None = None):
        self.dataset = dataset
        self.first = first
        self.appearances = appearances
        available = len(dataset.names[first:])
        self.count = available if count is None else min(count, available)
        if self.count < 1:
            raise ValueError(f"the data set has {len(dataset.names)} samples, none from number {first} on")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, dict]]:
        for number, sample in enumerate(itertools.islice(self.read_samples(), self.count), self.first):
            appearance = self.appearances[number] if self.appearances else None
            caption = Caption.short(appearance) if appearance else next(iter(sample["captions"]), "")
            yield number, sample | {"caption": caption, "appearance": appearance}

    def take_share(self, part: int, parts: int) -> Samples:
        """The part of this number, from 1 on, of as many parts."""
        start, stop = (self.count * i // parts for i in (part - 1, part))
        return Samples(self.dataset, self.first + start, stop - start, self.appearances)

    def read_samples(self) -> Iterator[dict]:
        if isinstance(self.dataset, FaceDataset):
            return (self.dataset[i] for i in range(self.first, self.first + self.count))
        return itertools.islice(self.dataset, self.first, None)  # a stream of tar shards


class Judges(NamedTuple):
    """What measures images; `skipped` has the reason why each other measure is left out. rules: None without any."""
    parser: Parser
    scores: list[Score]
    rules: AttributeRules | None
    skipped: dict[str, str]


def read_appearances(source: Path) -> list[dict] | None:
    """The appearances of a folder of renders, in the data set's order. None for any other folder."""
    return Renders(source).attributes if any(source.glob("*.npz")) else None


def score_networks(pairs: Iterator[tuple[np.ndarray, dict]], scores: list[Score]) -> dict:
    """Values of the measures that need a network, of (generated image, sample) pairs."""
    while chunk := list(itertools.islice(pairs, SCORE_BATCH)):
        images, samples = zip(*chunk)
        generated = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        real = torch.stack([sample["image"] for sample in samples])
        captions = [sample["caption"] for sample in samples]
        for score in scores:
            score.update(generated, real, captions)
    values = {}
    for score in scores:
        values |= score.compute()
    return values


def score_labels(pairs: Iterator[tuple[np.ndarray, dict]], parser: Parser, rules: AttributeRules | None) -> dict:
    """Label agreement of the generated and of the real images of (generated image, sample) pairs; with rules, also the
    accuracy of the attributes."""
    agreements = {side: LabelAgreement(parser) for side in ("generated", "real")}
    accuracies = {side: AttributeAccuracy(rules) for side in agreements}
    for generated, sample in pairs:
        asked = sample["labels"].numpy()
        real = sample["image"].permute(1, 2, 0).contiguous().numpy()
        for side, image in (("generated", generated), ("real", real)):
            parsed = agreements[side].update(image, asked)
            if rules and sample["appearance"]:
                accuracies[side].update(image, asked, parsed, sample["appearance"])
    return {"labels": {side: agreement.compute() for side, agreement in agreements.items()},
            "attributes": {side: accuracy.compute() for side, accuracy in accuracies.items()}}


def read_generated(folder: Path, samples: Samples, title: str) -> Iterator[tuple[np.ndarray, dict]]:
    """The generated images (S, S, 3) uint8 of a folder with their samples, under a progress bar."""
    for number, sample in tqdm(samples, desc=title):
        yield np.array(open_rgb(make_image_path(folder, number, sample))), sample


def read_share(text: str) -> tuple[int, int]:
    """Part and number of parts of a text such as 2/8."""
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise ValueError
    return part, parts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python dev.py evaluate", description=__doc__.partition("\n")[0])
    defaults = Options()
    add = parser.add_argument
    add("--source", type=Path, required=True, help="test folder, in any layout of mdit.datasets")
    add("--model", type=Path, required=True, help="stand-alone MDiT file; with --adapter its base")
    add("--out", type=Path, required=True, help="folder of images, report.json, report.md and sheet.png")
    add("--adapter", type=Path, help="mask adapter for the base")
    add("--vae", type=Path, help="the base's VAE, if its file has none")
    add("--clip", type=Path, nargs="+", default=[], help="the base's text encoders, if its file has none")
    add("--shard", type=read_share, help="draw this share of the images alone, such as 2/8")
    add("--draw-only", action="store_true", help="make no report")
    add("--gather", action="store_true", help="draw nothing; make the report of all shares")
    add("--first", type=int, default=0, help="number of the first sample, for a split (default: 0)")
    add("--count", type=int, help="number of samples (default: all)")
    add("--size", type=int, help=f"side of the images (default: the model's, else {DEFAULT_SIZE})")
    add("--batch", type=int, default=16, help="images drawn together (default: 16)")
    add("--steps", type=int, default=defaults.steps)
    add("--cfg", type=float, default=defaults.cfg, help=f"guidance of the text (default: {defaults.cfg})")
    add("--mask-cfg", type=float, default=defaults.mask_cfg, help=f"and of the mask (default: {defaults.mask_cfg})")
    add("--seed", type=int, default=defaults.seed)
    add("--sampler-name", default=defaults.sampler_name)
    add("--scheduler", default=defaults.scheduler)
    add("--token-reduction", choices=list(REDUCTIONS), default=defaults.token_reduction)
    add("--weights", type=Path, help="folder of the measures' networks (see mdit/evaluation/metrics/scores.py)")
    add("--parser", default=str(PARSER_WEIGHTS), help="weights or module:function (default: the bundled judge)")
    add("--fit", type=Path, help="folder of renders on which the rules for attributes are fitted")
    args = parser.parse_args(argv)
    for name in ("count", "size", "batch", "steps"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    if (args.vae or args.clip) and not args.adapter:
        parser.error("--vae and --clip belong to the base of an --adapter")
    if args.gather and (args.shard or args.draw_only):
        parser.error("--gather draws nothing: leave --shard and --draw-only out")
    if args.shard and not args.draw_only:
        parser.error("--shard draws a share alone: add --draw-only")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    comfy.utils.set_progress_bar_enabled(False)
    models = load_models(args.model, args.adapter, args.vae, tuple(args.clip))
    size = args.size or models.size or DEFAULT_SIZE
    samples = Samples(open_dataset(args.source, size), args.first, args.count, read_appearances(args.source))
    options = Options(**{name: getattr(args, name) for name in Options.__dataclass_fields__})
    files = filter(None, [args.model, args.adapter, args.vae] + args.clip)
    folder = make_image_folder(args.out, files, size, options)
    judges = None if args.draw_only else open_judges(args, samples, size)
    if args.gather:
        require_images(folder, samples)
    else:
        part, parts = args.shard or (1, 1)
        share = tqdm(samples.take_share(part, parts), desc="images")
        fill_folder(folder, share, Generator(models, options, size), args.batch)
    if judges:
        report = {"model": str(args.model), "adapter": args.adapter and str(args.adapter), "count": len(samples),
                  "size": size, "options": vars(options)} | measure(folder, samples, judges)
        print(write_report(args.out, report, read_faces(folder, samples)))


def open_judges(args: argparse.Namespace, samples: Samples, size: int) -> Judges:
    parser = open_parser(args.parser)
    scores, skipped = open_scores(args.weights, size, comfy.model_management.get_torch_device())
    rules = AttributeRules(Renders(args.fit), parser) if args.fit and samples.appearances else None
    if rules is None:
        skipped["attributes"] = "they need renders in --source and --fit"
    return Judges(parser, scores, rules, skipped)


def measure(folder: Path, samples: Samples, judges: Judges) -> dict:
    """The part of the report that judges make of the images in a folder."""
    parser, scores, rules, skipped = judges
    measures = score_networks(read_generated(folder, samples, "networks"), scores) if scores else {}
    labels = score_labels(read_generated(folder, samples, "labels"), parser, rules)
    return {"skipped": skipped, "measures": measures} | labels


def read_faces(folder: Path, samples: Samples) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """What the sheet shows of each sample (see `draw_sheet`)."""
    for image, sample in read_generated(folder, samples, "sheet"):
        yield image, sample["image"], sample["labels"]


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
