"""How often the words of *Describe Label Map* are right, on renders whose attributes are known.

    python dev.py bench words [--count 200] [--seed 12] [--size 192] [--workers 1]

The renderer tells what each person looks like; the label map alone is described. Hair counts as it hangs: long hair
that is tied or in a bun is short. What a hat hides does not count: bangs, and a bald head. For each word: renders in
which it is true, accuracy, precision and recall in per cent. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from unittest import mock

import numpy as np

from mditface.mdit.parsing import describe_map
from mditface.mdit.parsing.words import LEAST_TILT, PHRASES
from mditface.mdit.render import head, scene
from mditface.mdit.render.appearance import sample_appearance

TURNED = 13.0  # degrees
HANGING = ("loose", "afro")
WORN = {"eye_g": "glasses", "hat": "hat", "ear_r": "earrings", "neck_l": "necklace"}  # attributes, by word
OPENING = ("mouth-open", "mouth-part-later")


def describe_sample(index: int, seed: int, size: int) -> tuple[set[str], set[str]]:
    """The true words for a render, and the words of its label map."""
    words, = describe_map(scene.make_sample(seed, index, size).label).words
    return set(find_truth(seed, index)), set(words)


def find_truth(seed: int, index: int) -> Iterator[str]:
    """The words for a render, from the numbers of which it was made."""
    rng = np.random.default_rng([seed, index])
    appearance = sample_appearance(rng)
    units = build_units(appearance, rng)
    rotation = scene.sample_camera(appearance["hat"] != "none", rng).rotation
    yield from find_hair(appearance)
    yield from (word for word, key in WORN.items() if appearance[key] not in ("none", "no"))
    if appearance["expression"] == "smiling":
        yield "smiling"
    if any(units.get(unit, 0) > 0 for unit in OPENING):
        yield "mouth open"
    yaw = math.degrees(math.atan2(rotation[0, 2], rotation[2, 2]))
    roll = -math.degrees(math.atan2(rotation[1, 0], rotation[0, 0]))
    for verb, angle, least in (("turned", yaw, TURNED), ("tilted", roll, LEAST_TILT)):
        if abs(angle) >= least:
            yield f"{verb} right" if angle > 0 else f"{verb} left"


def build_units(appearance: dict[str, str], rng: np.random.Generator) -> dict[str, float]:
    """The expression of a head, which is built with the generator as a render does it."""
    kept = {}

    def keep(*given):
        kept.update(sample(*given))
        return kept

    sample = head.expression_units
    with mock.patch.object(head, "expression_units", keep):
        head.build_head(appearance, rng)
    return kept


def find_hair(appearance: dict[str, str]) -> Iterator[str]:
    length = appearance["hair_length"]
    style = appearance["hair_style"]
    has_hat = appearance["hat"] != "none"
    if length == "bald":
        yield from [] if has_hat else ["no hair"]
    elif length == "long" and style == "loose":
        yield "long hair"
    else:
        yield "medium hair" if length in ("medium", "long") and style in HANGING else "short hair"
    if appearance["bangs"] == "yes" and not has_hat:
        yield "bangs"


def score(rows: list[tuple[set[str], set[str]]], word: str) -> dict[str, float]:
    true = np.array([word in truth for truth, _ in rows])
    said = np.array([word in words for _, words in rows])
    both = (true & said).sum()
    return {"true": int(true.sum()), "accuracy": round(100 * (true == said).mean(), 1),
            "precision": round(100 * both / max(1, said.sum()), 1), "recall": round(100 * both / max(1, true.sum()), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench words", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("count", 200), ("seed", 12), ("size", 192), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    describe = partial(describe_sample, seed=options.seed, size=options.size)
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        rows = list(pool.map(describe, range(options.count)))
    seen = set().union(*(truth | words for truth, words in rows))
    scores = {word: score(rows, word) for word in PHRASES["English"] if word in seen}
    for word, found in scores.items():
        print(f"{word:14}", *(f"{name} {value:5}" for name, value in found.items()))
    print(json.dumps({"words": scores}))


if __name__ == "__main__":
    sys.exit(main())
