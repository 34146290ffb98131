"""Interactions written as text: `subject = action = object;` with boxes in brackets, or JSON."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator

from .interactions import Box, Interaction, to_box

PHRASE = re.compile(r"([^\[\]]*?)\s*(?:\[([^\[\]]*)\])?")  # "hair drier [0.1, 0.2, 0.3, 0.4]"
WORDS = ("subject", "action", "object")
FIELDS = (*WORDS, "subject_box", "object_box")


def parse_interactions(text: str, size: tuple[int, int] = (1, 1), boxes: list[Box] | None = None
                       ) -> tuple[Interaction, ...]:
    """Reads interactions from text. `size` (width, height) of the image is the unit of the boxes in it.

    The text is `person [0.1, 0.2, 0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]; ...`, with lines or semicolons
    between interactions, or a JSON list of objects with the keys subject, action, object, subject_box and object_box.
    Interactions without boxes take theirs from `boxes` in turn: subject, object, subject, object, ...
    Raises ValueError that names the interaction and what is wrong with it.
    """
    is_json = text.lstrip().startswith(("[", "{"))
    items = list(read_json(text) if is_json else read_lines(text))
    boxes = boxes or []
    missing = sum(item["subject_box"] is None for item in items)
    if 2 * missing != len(boxes):
        raise ValueError(f"boxes: {len(boxes)} boxes for {missing} interactions without boxes: draw two for each, "
                         "first the subject's, then the object's, or write them into the text")
    remaining = iter(boxes)
    return tuple(build_interaction(item, f"text: interaction {i}", size, remaining)
                 for i, item in enumerate(items, 1))


def build_interaction(item: dict, where: str, size: tuple[int, int], remaining: Iterator[Box]) -> Interaction:
    """The interaction of one item's fields. `where` names it in errors; missing boxes come from `remaining`."""
    if item["subject_box"] is None:
        subject_box = next(remaining)
        object_box = next(remaining)
    else:
        subject_box = to_box(item["subject_box"], size, f"{where}, subject_box")
        object_box = to_box(item["object_box"], size, f"{where}, object_box")
    return Interaction(item["subject"].strip(), item["action"].strip(), item["object"].strip(),
                       subject_box=subject_box, object_box=object_box)


def read_lines(text: str) -> Iterator[dict]:
    """The fields of each interaction in the short form."""
    items = [item.strip() for item in re.split(r"[;\n]", text)]
    for i, item in enumerate(filter(None, items), 1):
        yield read_line(item, f"text: interaction {i}, '{item}',")


def read_line(item: str, where: str) -> dict:
    phrases = item.split("=")
    if len(phrases) != 3:
        raise ValueError(f"{where} has {len(phrases)} parts: write subject = action = object, and a semicolon between "
                         "two interactions")
    matches = [PHRASE.fullmatch(phrase.strip()) for phrase in phrases]
    if None in matches or matches[1][2] is not None:
        raise ValueError(f"{where} has brackets in the wrong position: a box such as [0.1, 0.2, 0.4, 0.9] follows the "
                         "subject and the object")
    subject, action, object_ = matches
    subject_box = None if subject[2] is None else parse_numbers(subject[2], where)
    object_box = None if object_[2] is None else parse_numbers(object_[2], where)
    if (subject_box is None) != (object_box is None):
        raise ValueError(f"{where} has one box: give both the subject and the object a box, or neither")
    return dict(subject=subject[1], action=action[1], object=object_[1], subject_box=subject_box,
                object_box=object_box)


def parse_numbers(text: str, where: str) -> list[float]:
    try:
        return [float(number) for number in re.split(r"[\s,]+", text.strip())]
    except ValueError as error:
        raise ValueError(f"{where} has the box [{text}], which is not made of numbers: write [left, top, right, "
                         "bottom]") from error


def read_json(text: str) -> Iterator[dict]:
    """The fields of each interaction in JSON."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"text: it begins like JSON but is not valid JSON ({error}): correct it, or write subject "
                         "= action = object") from error
    for i, item in enumerate(found if isinstance(found, list) else [found], 1):
        if not is_interaction(item):
            raise ValueError(f"text: interaction {i} must be a JSON object with the texts subject, action and "
                             "object and, both or neither, subject_box and object_box as lists of four numbers")
        yield {**dict.fromkeys(FIELDS), **item}


def is_interaction(value) -> bool:
    """Whether a JSON value holds an interaction, with or without boxes."""
    return (isinstance(value, dict) and set(value) in (set(FIELDS), set(WORDS))
            and all(isinstance(value[name], str) for name in WORDS)
            and all(is_box(value[name]) for name in set(value) - set(WORDS)))


def is_box(value) -> bool:
    return isinstance(value, list) and all(type(number) in (int, float) for number in value)
