"""What the parts of the recipe add to the colours that a text names (docs/training.md, "Colours").

    python dev.py bench ablation [--steps 800] [--count 200]

First the text encoder alone: how well it tells the colours of random captions after its lesson in attributes, without
a part of it. Then smaller models of the bundled kind, trained on `data/train` with one thing left out each: do the
asked parts of held-out renders, asked for by label map and short caption, have the colours? One seed.
The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn as nn

import comfy.ops
from mditface.mdit.mditface.text import TextEncoder
from mditface.mdit.training import initialise
from mditface.mdit.training.colors import PARTS, ColorRule
from mditface.mdit.training.sampling import sample
from mditface.mdit.training.settings import read_settings
from mditface.mdit.training.targets.demo import DemoSettings, DemoTarget
from mditface.mdit.training.trainer import Trainer, make_accelerator
from mditface.mdit.training.words import CaptionWriter, pretrain, text_config

from .bundled import FIT_SEED
from .quality import measure

CONFIG = Path("mdit", "training", "configs", "demo.yaml")
SMALLER = ("model.width=128", "model.depth=4", "every.checkpoint=100000", "every.sheet=100000", "every.metrics=100000")
BATCH, FITTED = 50, 1000
WIDTH, LESSON = 192, 300  # of the shipped text encoder


ENCODERS: dict[str, tuple[bool, float]] = {  # convolutions, deviation of the embeddings at the start
    "as shipped": (True, initialise.EMBEDDING_SD), "embeddings start at 1": (True, 1.0),
    "no convolutions": (False, initialise.EMBEDDING_SD), "neither": (False, 1.0),
}
MODELS: dict[str, tuple[tuple[str, ...], float]] = {  # other settings, share of the heads that start local
    "as shipped": ((), initialise.LOCAL_SHARE),
    "no lesson in attributes": (("text_steps=0",), initialise.LOCAL_SHARE),
    "every head starts local": ((), 1.0),
}


def encoder_scores(convolutions: bool, deviation: float) -> dict[str, float]:
    """Share of the captions whose colours the encoder tells at the end of its lesson, those that name none included."""
    torch.manual_seed(0)
    config = text_config(WIDTH)
    encoder = TextEncoder(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    with patch.object(initialise, "EMBEDDING_SD", deviation):
        initialise.initialise_text(encoder)
    if not convolutions:
        encoder.conv = nn.ModuleList()
    found = pretrain(encoder, CaptionWriter(config, 0), LESSON)
    return {name: found[name] / 100 for name in PARTS}


def train(folder: Path, steps: int, changes: tuple[str, ...], local: float) -> DemoTarget:
    settings = read_settings(CONFIG, [*SMALLER, *changes, f"steps={steps}", f"output={folder}",
                                      f"weights={folder / 'model.safetensors'}"], {"demo": DemoSettings})
    with patch.object(initialise, "LOCAL_SHARE", local):
        target = DemoTarget(settings)
    trainer = Trainer(target, make_accelerator(settings))
    trainer.fit()
    trainer.average.exchange()  # the measured model is the averaged one
    return target


@torch.no_grad()
def colors(target: DemoTarget, count: int, rules: list[ColorRule]) -> dict[str, float]:
    """Share of the held-out renders whose parts have the colours of their short captions."""
    faces = target.heldout
    ids = target.writer.encode(measure.short_captions(faces)[:count])
    hits: dict[str, list[bool]] = {rule.attribute: [] for rule in rules}
    for i in range(0, count, BATCH):
        part = slice(i, min(i + BATCH, count))
        pictures = sample(target.module.model, target.module.text_encoder, faces.labels[part], ids[part], seed=i)
        for picture, label, look in zip(pictures.numpy(), faces.labels[part].numpy(), faces.attributes[part]):
            for rule in rules:
                seen = None if look[rule.attribute] == "none" else rule(picture, label)
                if seen is not None:
                    hits[rule.attribute].append(seen == look[rule.attribute])
    return {name: float(np.mean(found)) for name, found in hits.items() if found}


def show(name: str, scores: dict[str, float]) -> dict[str, float]:
    print(f"{name:26}" + "".join(f"  {key} {value:.2f}" for key, value in scores.items()), flush=True)
    return scores


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench ablation", description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=800, help="of each image model (default: 800)")
    parser.add_argument("--count", type=int, default=200, help="held-out renders (default: 200)")
    options = parser.parse_args(argv)
    encoders = {name: show(name, encoder_scores(*variant)) for name, variant in ENCODERS.items()}
    fitted = measure.renders(FIT_SEED, 128, FITTED, os.cpu_count())
    rules = [ColorRule(name, fitted.images.numpy(), fitted.labels.numpy(), fitted.attributes) for name in PARTS]
    models = {}
    for name, variant in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            target = train(Path(folder), options.steps, *variant)
        models[name] = show(name, colors(target, min(options.count, len(target.heldout)), rules))
    print(json.dumps({"bench": "ablation", "steps": options.steps, "count": options.count, "encoders": encoders,
                      "models": models}))


if __name__ == "__main__":
    main()
