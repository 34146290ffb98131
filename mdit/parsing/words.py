"""Words for what a label map shows, in English and Chinese, by rules on the measures of `heads`."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..labelmap import CLASSES, DISPLAY_NAMES
from .heads import Head, find_people, measure_head, thin_out

PHRASES = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))  # by language and word
LANGUAGES = tuple(PHRASES)

# Thresholds of the words, found on 200 renders and measured on 200 others (docs/systems/label-maps.md). Areas are in
# areas of the face, widths and heights in those of the face.
LEAST_HAIR = 0.02
LEAST_WORN = {"eye_g": 0.015, "hat": 0.05, "ear_r": 0.002, "neck_l": 0.005}
LEAST_WIDTH = 0.2  # of hair beside the mouth or below the chin
LEAST_FRINGE = 0.155  # of the forehead
LEAST_SMILE = 0.026
LEAST_MOUTH = 0.004
LEAST_TURN = 0.1  # about 13 degrees
LEAST_TILT = 6.0  # degrees
UNWORN = ("smiling", "mouth open", "turned left", "turned right", "tilted left", "tilted right")  # not after "with"
NO_FACE = "there is no face, so hair, mouth and pose are not measured"


class Description(NamedTuple):
    """What is said of a label map, for each person from left to right.

    words: keys of a language's PHRASES. notes: the measures behind the words.
    """
    words: list[list[str]]
    notes: list[str]


def describe_map(labels: np.ndarray) -> Description:
    """The words for the people of a label map (H, W). Left and right are the picture's."""
    people = find_people(thin_out(labels))
    heads = [measure_head(person) for person in people]
    words = [list_words(head) if head else list_parts(person) for head, person in zip(heads, people)]
    return Description(words, [", ".join(list_measures(head)) if head else NO_FACE for head in heads])


def list_words(head: Head) -> list[str]:
    worn = [name for name, least in LEAST_WORN.items() if head.shares.get(name, 0) >= least]
    return [*list_hair(head), *worn, *list_mouth(head), *list_pose(head)]


def list_parts(labels: np.ndarray) -> list[str]:
    """Words for a label map (H, W) without a face."""
    shown = np.unique(labels)
    return [name for name in ("hair", *LEAST_WORN) if CLASSES.index(name) in shown]


def list_hair(head: Head) -> Iterator[str]:
    if head.shares.get("hair", 0) < LEAST_HAIR:
        if head.shows_crown and "hat" not in head.shares:  # which may hide it
            yield "no hair"
        return
    if head.hair_below_chin >= LEAST_WIDTH:
        yield "long hair"
    else:
        yield "medium hair" if head.hair_beside_mouth >= LEAST_WIDTH else "short hair"
    if head.fringe >= LEAST_FRINGE:
        yield "bangs"


def list_mouth(head: Head) -> Iterator[str]:
    if head.smile >= LEAST_SMILE:
        yield "smiling"
    if head.shares.get("mouth", 0) >= LEAST_MOUTH:
        yield "mouth open"


def list_pose(head: Head) -> Iterator[str]:
    for verb, amount, least in (("turned", head.turn, LEAST_TURN), ("tilted", head.tilt, LEAST_TILT)):
        if abs(amount) >= least:
            yield f"{verb} right" if amount > 0 else f"{verb} left"


def list_measures(head: Head) -> Iterator[str]:
    for name in ("hair", *LEAST_WORN, "mouth"):
        if name in head.shares:
            yield f"{DISPLAY_NAMES[CLASSES.index(name)]} {head.shares[name]:.1%} of the face"
    yield f"hair beside the mouth {head.hair_beside_mouth:.2f} and below the chin {head.hair_below_chin:.2f} faces wide"
    yield f"forehead covered {head.fringe:.0%}"
    yield f"smile {round(head.smile, 3) + 0.0:+.3f}"  # + 0.0: no sign before a zero that was rounded up
    yield f"turn {round(head.turn, 2) + 0.0:+.2f}"
    yield f"tilt {round(head.tilt, 1) + 0.0:+.1f} degrees"


def write_sentence(people: Sequence[Sequence[str]], language: str, prompt: str = "") -> str:
    """The words for people (`Description.words`) as a sentence in one of the LANGUAGES, with a prompt behind it."""
    phrases = PHRASES[language]
    sentence = phrases["semicolon"].join(write_person(words, phrases) for words in people)
    if len(people) > 1:
        counts = phrases["counts"]
        count = counts[len(people)] if len(people) < len(counts) else len(people)
        sentence = phrases["people"].format(count=count) + sentence
    return phrases["comma"].join(filter(None, (sentence, prompt.strip())))


def write_person(words: Sequence[str], phrases: dict) -> str:
    if not words:
        return phrases["person"]
    joint = phrases["comma" if words[0] in UNWORN else "with"]
    return phrases["person"] + joint + phrases["comma"].join(phrases[word] for word in words)
