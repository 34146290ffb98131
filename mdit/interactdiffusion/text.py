"""Interactions written as text: `subject = action = object;` with boxes in brackets, or JSON."""
from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from ..shared.text_files import drop_invisible, shorten
from .interactions import Box, Interaction, to_box

LONGEST = 100_000  # letters of a text
LARGEST = 2 ** 24  # whole number of a box
BETWEEN_ITEMS = re.compile("[;\r\n\u2028\u2029]")
BETWEEN_NUMBERS = re.compile("[\\s,;\u3001\u060c]+")  # the last two: ideographic and Arabic comma
FENCE = "```"  # around a Markdown code block
LANGUAGE = re.compile(r"\w*")  # after the first fence
SEPARATORS = str.maketrans({  # other scripts' forms of the separators between phrases
    "\uff1d": "=", "\uff1b": ";", "\u061b": ";", "\uff3b": "[", "\uff3d": "]", "\u3010": "[", "\u3011": "]"})
JSON_SIGNS = SEPARATORS | str.maketrans({
    "\uff5b": "{", "\uff5d": "}", "\uff1a": ":", "\uff0c": ",", "\u201c": '"', "\u201d": '"', "\uff02": '"'})
QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c", "\u300c": "\u300d",
          "\u300e": "\u300f", "\u00ab": "\u00bb", "\uff02": "\uff02"}
WORDS = ("subject", "action", "object")
BOXES = ("subject_box", "object_box")
FIELDS = (*WORDS, *BOXES)


def parse_interactions(text: str, size: tuple[int, int] = (1, 1), boxes: list[Box] | None = None
                       ) -> tuple[Interaction, ...]:
    """Reads interactions from text. `size` (width, height) of the image is the unit of the boxes in it.

    The text is `person [0.1, 0.2, 0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]; ...`, with lines or semicolons
    between interactions, or a JSON list of objects with the keys subject, action, object, subject_box and object_box;
    other keys are not read. Full-width separators, quotes around phrases and a Markdown code block around the text are
    read, too.
    Interactions without boxes take theirs from `boxes` in turn: subject, object, subject, object, ...
    Raises ValueError that names the interaction and what is wrong with it, and for more than 100000 letters. The time
    grows with the length alone.
    """
    if len(text) > LONGEST:
        raise ValueError(f"text: it has {len(text)} letters, at most {LONGEST} are read: shorten it")
    text = unwrap(drop_invisible(text))
    is_json = text.translate(JSON_SIGNS).startswith(("[", "{"))
    items = list(read_json(text) if is_json else read_lines(text))
    boxes = boxes or []
    missing = sum(item["subject_box"] is None for item in items)
    if 2 * missing != len(boxes):
        raise ValueError(f"boxes: {len(boxes)} boxes for {missing} interactions without boxes: draw two for each, "
                         "first the subject's, then the object's, or write them into the text")
    remaining = iter(boxes)
    return tuple(build_interaction(item, f"text: interaction {i}", size, remaining)
                 for i, item in enumerate(items, 1))


def unwrap(text: str) -> str:
    """The text without the code block that language models put around their answers."""
    text = text.strip(" \t\r\n")
    if text.startswith(("[", "{")):
        return text
    inside, end, _ = text.partition(FENCE)[2].partition(FENCE)
    return inside[LANGUAGE.match(inside).end():].strip() if end else text


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
    items = [unquote(item) for item in BETWEEN_ITEMS.split(text.translate(SEPARATORS))]
    for i, item in enumerate(filter(None, items), 1):
        yield read_line(item, f"text: interaction {i}, '{shorten(item)}',")


def unquote(text: str) -> str:
    """The text without spaces around it and without one pair of quotes around the whole."""
    text = text.strip()
    inner = text[1:-1]
    closing = QUOTES.get(text[:1])
    if len(text) > 2 and text[-1] == closing and text[0] not in inner and closing not in inner:
        return inner.strip()
    return text


def read_line(item: str, where: str) -> dict:
    phrases = item.split("=")
    if len(phrases) != 3:
        raise ValueError(f"{where} has {len(phrases)} parts: write subject = action = object, and a semicolon between "
                         "two interactions")
    (subject, subject_box), (action, action_box), (object_, object_box) = [
        split_phrase(phrase, where) for phrase in phrases]
    if action_box is not None:
        raise ValueError(describe_brackets(where))
    if (subject_box is None) != (object_box is None):
        raise ValueError(f"{where} has one box: give both the subject and the object a box, or neither")
    return dict(subject=unquote(subject), action=unquote(action), object=unquote(object_), subject_box=subject_box,
                object_box=object_box)


def split_phrase(text: str, where: str) -> tuple[str, list[float] | None]:
    """The words and the box of a phrase such as "hair drier [0.1, 0.2, 0.3, 0.4]"; None without a box."""
    words, start, rest = text.strip().partition("[")
    numbers, end, after = rest.partition("]")
    if after or bool(start) != bool(end) or "]" in words or "[" in numbers:
        raise ValueError(describe_brackets(where))
    return words.rstrip(), parse_numbers(numbers, where) if start else None


def describe_brackets(where: str) -> str:
    return (f"{where} has brackets in the wrong position: a box such as [0.1, 0.2, 0.4, 0.9] follows the subject and "
            "the object")


def parse_numbers(text: str, where: str) -> list[float]:
    """The numbers of a box, in any of the forms of digits and commas; brackets around them are left out."""
    numbers = unicodedata.normalize("NFKC", text).strip(" \t\r\n[](){}\u3010\u3011")
    try:
        return [float(number) for number in BETWEEN_NUMBERS.split(numbers)]
    except ValueError as error:
        raise ValueError(f"{where} has the box [{shorten(text)}], which is not made of numbers: write [left, top, "
                         "right, bottom]") from error


def read_json(text: str) -> Iterator[dict]:
    """The fields of each interaction in JSON."""
    found = load_json(text)
    for i, item in enumerate(found if isinstance(found, list) else unwrap_list(found), 1):
        if not is_interaction(item):
            raise ValueError(f"text: interaction {i} must be a JSON object with the texts subject, action and "
                             "object and, both or neither, subject_box and object_box as lists of four numbers")
        yield {field: item.get(field) for field in FIELDS}


def load_json(text: str) -> Any:
    """A JSON value. Text that is not JSON is read again with plain signs in place of full-width ones."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return json.loads(text.translate(JSON_SIGNS))
        except (ValueError, RecursionError):
            raise ValueError(f"text: it begins like JSON but is not valid JSON ({shorten(error)}): correct it, or "
                             "write subject = action = object") from error


def unwrap_list(found: Any) -> list:
    """The list in an object such as {"interactions": [...]}; any other value is the only item of a list."""
    if isinstance(found, dict) and not set(WORDS) & set(found):
        lists = [value for value in found.values() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
    return [found]


def is_interaction(value: Any) -> bool:
    """Whether a JSON value holds an interaction, with or without boxes. Other keys do not matter."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in WORDS):
        return False
    boxes = [value.get(name) for name in BOXES]
    return boxes == [None, None] or all(map(is_box, boxes))


def is_box(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) <= LARGEST)
