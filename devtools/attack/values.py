"""Mutants of values, texts and bytes. Each function takes a `random.Random`, so a seed makes the same mutant again."""
from __future__ import annotations

import copy
import random
from typing import Any

NUMBERS = (0, -1, 1, 2, 255, 256, 999, 10 ** 6, 10 ** 9, 10 ** 18, 10 ** 400, -10 ** 9, 0.5, 1e-9, 1e9, 1e300,
           float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "\0", "[", "]", "=", "{", "```", "../x", "\ud83d", "\u00e9", "\u4e00", "1e999", "%s", "{0}",
         "a" * 3000)
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, [0] * 3000)
DEEP = 100_000  # levels of brackets
LONGEST = 200_000  # letters of a mutant


def draw_value(rng: random.Random) -> Any:
    """A value of any kind that JSON knows."""
    return copy.deepcopy(rng.choice(rng.choice((NUMBERS, TEXTS, OTHERS))))


def mutate_value(rng: random.Random, value: Any) -> Any:
    """A copy of a value of dicts and lists in which one to three places are changed."""
    value = [copy.deepcopy(value)]
    for _ in range(rng.randint(1, 3)):
        change_place(rng, value)
    return value[0]


def change_place(rng: random.Random, root: list) -> None:
    """Changes one item at a random depth."""
    inside, key = root, 0
    while isinstance(inside[key], (dict, list)) and inside[key] and rng.random() < 0.85:
        inside = inside[key]
        key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
    change = rng.randrange(5)
    if change == 0 and inside is not root:
        del inside[key]
    elif change == 1 and isinstance(inside[key], dict):
        inside[key][rng.choice(TEXTS)] = draw_value(rng)
    elif change == 2 and isinstance(inside[key], list):
        inside[key] = inside[key] * rng.choice((2, 3, 10))
    else:
        inside[key] = draw_value(rng)


def mutate_text(rng: random.Random, text: str) -> str:
    """A text with one to four pieces repeated, cut out, doubled or put in."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        piece = rng.choice((text[start:end], rng.choice(TEXTS), str(rng.choice(NUMBERS[:10]))))
        count = rng.choice((0, 1, 2, 50, DEEP))
        count = min(count, (LONGEST - len(text)) // max(1, len(piece)))
        text = text[:start] + piece * max(0, count) + text[rng.choice((start, end)):]
    return text[:LONGEST]


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Bytes that are cut, extended, or changed in one to five places."""
    change = rng.randrange(4)
    if change == 0:
        return content[:rng.randint(0, len(content))]
    if change == 1:
        return content + rng.randbytes(rng.choice((1, 100, 10_000)))
    found = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        start = min(rng.randint(0, len(found)), rng.choice((len(found), 300)))  # often in the header
        length = rng.choice((1, 1, 4, 8, 100))
        found[start:start + length] = rng.choice((rng.randbytes(length), bytes(length), b"\xff" * length, b""))
    return bytes(found)
