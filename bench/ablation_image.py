"""What parts of the recipe add to the colours of the images (docs/training/bundled.md, "Colours").

    python dev.py bench ablation_image [--steps 800] [--count 100] [--data data/train]

Trains a smaller image model by configs/demo.yaml, with one part of the recipe changed at a time. Counts the images of
the first held-out maps and short captions that have the asked colours. `data` is a folder of the pack's renders; the
held-out renders are the configuration's. One seed. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch.nn as nn

from mditface.mdit.recipes import initialize
from mditface.mdit.evaluation.metrics.agreement import Parser, open_parser
from mditface.mdit.evaluation.metrics.attributes import AttributeRules
from mditface.mdit.mditface.guidance import Guidance
from mditface.mdit.render import caption
from mditface.mdit.training.sampling import sample
from mditface.mdit.training.settings import read_settings
from mditface.mdit.recipes.targets.demo import DemoTarget
from mditface.mdit.recipes.targets.kinds import SETTINGS
from mditface.mdit.training.trainer import Trainer, make_accelerator

from .bundled import FIT_SEED
from .quality import measure

CONFIG = Path(measure.ROOT, "mdit", "recipes", "configs", "demo.yaml")
SMALL = ("model.width=128", "model.text_dim=128", "model.pooled_dim=128", "model.depth=4", "schedule.warmup=50",
         "ema=0", "every.metrics=1000000", "every.sheet=1000000")
GUIDANCE = Guidance(text=1.25, mask=2.0)  # weak: strong text guidance hides what a part adds
COLORS = ("hair_color", "clothes_color", "background_color")


class Variant(NamedTuple):
    """A change of the recipe.

    convolutions: whether the text encoder has them.
    constants: a context in which the recipe's constants have other values.
    changes: of the settings, as on the command line.
    """
    convolutions: bool = True
    constants: Callable[[], AbstractContextManager] = contextlib.nullcontext
    changes: tuple[str, ...] = ()


VARIANTS = {
    "as shipped": Variant(),
    "no convolutions": Variant(convolutions=False),
    "no lesson in attributes": Variant(changes=("text_steps=0",)),
    "all heads start local": Variant(constants=lambda: patch.object(initialize, "LOCAL_FRACTION", 1.0)),
    "no short captions": Variant(constants=lambda: patch.object(caption, "SHORT_FRACTION", 0.0)),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench ablation_image", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="steps of training, 64 images each (default: 800)")
    parser.add_argument("--count", type=int, default=100, help="held-out renders (default: 100)")
    parser.add_argument("--data", type=Path, default=Path("data/train"), help="default: data/train")
    return parser.parse_args(argv)


def train(folder: Path, args: argparse.Namespace, variant: Variant) -> DemoTarget:
    """The target after its run, which writes into `folder`."""
    paths = (f"data={args.data}", f"output={folder}", f"weights={folder}/weights.safetensors")
    settings = read_settings(CONFIG, [*SMALL, *paths, f"steps={args.steps}", *variant.changes], SETTINGS)
    with variant.constants():
        target = DemoTarget(settings)
        if not variant.convolutions:
            target.module.text_encoder.conv = nn.ModuleList()
        Trainer(target, make_accelerator(settings)).fit()
    return target


def score_colors(target: DemoTarget, count: int, judge: Parser, rules: AttributeRules) -> dict[str, float]:
    """Fraction of the images of the first held-out maps that have the asked colour."""
    faces = target.heldout
    module = target.module.eval()
    ids = target.writer.encode(measure.make_short_captions(faces)[:count])
    images = sample(module.model, module.text_encoder, faces.labels[:count], ids, seed=0, guidance=GUIDANCE).numpy()
    _, attributes = measure.score_heldout(images, faces, judge, rules)
    return {name: attributes[name]["accuracy"] for name in COLORS}


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    judge = open_parser()
    size = read_settings(CONFIG, [], SETTINGS).model.resolution
    rules = AttributeRules(measure.make_renders(FIT_SEED, size, 1500, os.cpu_count()), judge)
    results = {}
    for name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = score_colors(train(Path(folder), args, variant), args.count, judge, rules)
        print(f"{name:28}" + "".join(f"  {key} {value:.2f}" for key, value in results[name].items()), flush=True)
    print(json.dumps({"bench": "ablation_image", "steps": args.steps, "count": args.count, "variants": results}))


if __name__ == "__main__":
    main()
