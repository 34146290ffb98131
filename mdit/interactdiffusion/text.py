"""Interactions written as text: `subject = action = object;` with boxes in brackets, or JSON."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .interactions import Box, Interaction, checked_box

SOURCE = "text"
PHRASE = re.compile(r"([^\[\]]*?)\s*(?:\[([^\[\]]*)\])?")  # "hair drier [0.1, 0.2, 0.3, 0.4]"
FIELDS = ("subject", "action", "object", "subject_box", "object_box")


def parse(text: str, size: tuple[int, int] = (1, 1), boxes: list[Box] | None = None) -> tuple[Interaction, ...]:
    """The interactions of a text whose boxes are in units of the picture's `size` (width, height).

    `person [0.1, 0.2, 0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]; ...`, with lines or semicolons between them, or
    a JSON list of objects with the keys subject, action, object, subject_box and object_box. Interactions without
    boxes take theirs from `boxes` in turn: subject, object, subject, object, ...
    Raises ValueError that names the interaction and what is wrong with it.
    """
    parts = list(read_json(text) if text.lstrip().startswith(("[", "{")) else read_lines(text))
    rest = iter(boxes or ())
    lacking = 2 * sum(part["subject_box"] is None for part in parts)
    if lacking != len(boxes or ()):
        raise ValueError(f"boxes: {len(boxes or ())} boxes for {lacking // 2} interactions without boxes: draw two for "
                         "each, first the subject's, then the object's, or write them into the text")
    return tuple(interaction(part, f"{SOURCE}: interaction {i}", size, rest) for i, part in enumerate(parts, 1))


def interaction(part: dict, place: str, size: tuple[int, int], rest: Iterator[Box]) -> Interaction:
    words = [part[name].strip() for name in FIELDS[:3]]
    if part["subject_box"] is None:
        return Interaction(*words, next(rest), next(rest))
    return Interaction(*words, *(checked_box(part[name], size, f"{place}, {name}") for name in FIELDS[3:]))


def read_lines(text: str) -> Iterator[dict]:
    written = [item.strip() for item in re.split(r"[;\n]", text)]
    for i, item in enumerate(filter(None, written), 1):
        place, phrases = f"{SOURCE}: interaction {i}, '{item}',", item.split("=")
        if len(phrases) != 3:
            raise ValueError(f"{place} has {len(phrases)} parts: write subject = action = object, and a semicolon "
                             "between two interactions")
        found = [PHRASE.fullmatch(phrase.strip()) for phrase in phrases]
        if None in found or found[1][2] is not None:
            raise ValueError(f"{place} has brackets where none belong: a box such as [0.1, 0.2, 0.4, 0.9] stands after "
                             "the subject and after the object")
        subject_box, object_box = (numbers(match[2], place) for match in (found[0], found[2]))
        if (subject_box is None) != (object_box is None):
            raise ValueError(f"{place} has one box: give the subject and the object one each, or none")
        yield dict(zip(FIELDS, (*(match[1] for match in found), subject_box, object_box)))


def numbers(text: str | None, place: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(number) for number in re.split(r"[\s,]+", text.strip())]
    except ValueError as error:
        raise ValueError(f"{place} has the box [{text}], which is not made of numbers: write [left, top, right, "
                         "bottom]") from error


def read_json(text: str) -> Iterator[dict]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{SOURCE}: it begins like JSON but cannot be read as such ({error})") from error
    for i, part in enumerate(found if isinstance(found, list) else [found], 1):
        if not is_sound(part):
            raise ValueError(f"{SOURCE}: interaction {i} must be a JSON object with the texts subject, action and "
                             "object and, both or none, subject_box and object_box as lists of four numbers")
        yield {**dict.fromkeys(FIELDS), **part}


def is_sound(part) -> bool:
    """Whether a JSON value is an interaction."""
    return (isinstance(part, dict) and set(part) in (set(FIELDS), set(FIELDS[:3]))
            and all(isinstance(part[name], str) for name in FIELDS[:3])
            and all(is_box(part[name]) for name in FIELDS[3:] if name in part))


def is_box(value) -> bool:
    return isinstance(value, list) and all(type(number) in (int, float) for number in value)
