"""What parts of the text encoder add to the colours that it reads in captions (docs/training/bundled.md, "Colours").

    python dev.py bench ablation

Trains the encoder of the bundled model through its lesson in attributes, with one part changed at a time. Prints the
fraction of the last steps' captions whose colours it reads, including captions without the colour. One seed, half a
minute a row. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
from unittest.mock import patch

import torch
import torch.nn as nn

import comfy.ops
from mditface.mdit.mditface.text import TextEncoder
from mditface.mdit.recipes import initialize
from mditface.mdit.evaluation.colors import PARTS
from mditface.mdit.recipes.words import CaptionWriter, pretrain, make_text_config

WIDTH = 192  # as in configs/demo.yaml
LESSON = 300  # steps, as in configs/demo.yaml
VARIANTS = {  # whether there are convolutions over three words, starting deviation of the embeddings
    "as shipped": (True, initialize.EMBEDDING_SD), "embeddings start at 1": (True, 1.0),
    "no convolutions": (False, initialize.EMBEDDING_SD), "neither": (False, 1.0),
}


def read_colors(convolutions: bool, deviation: float) -> dict[str, float]:
    """Fraction of the captions whose colours the encoder reads."""
    torch.manual_seed(0)
    config = make_text_config(WIDTH)
    encoder = TextEncoder(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    with patch.object(initialize, "EMBEDDING_SD", deviation):
        initialize.initialize_text(encoder)
    if not convolutions:
        encoder.conv = nn.ModuleList()
    found = pretrain(encoder, CaptionWriter(config, 0), LESSON)
    return {name: found[name] / 100 for name in PARTS}


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(prog="dev.py bench ablation", description=__doc__.partition("\n")[0]).parse_args(argv)
    results = {}
    for name, (convolutions, deviation) in VARIANTS.items():
        results[name] = read_colors(convolutions, deviation)
        print(f"{name:24}" + "".join(f"  {key} {value:.2f}" for key, value in results[name].items()), flush=True)
    print(json.dumps({"bench": "ablation", "steps": LESSON, "variants": results}))


if __name__ == "__main__":
    main()
