"""Prompts with `<|image|>` after the nouns that pictures belong to (spec section 3.1)."""
from __future__ import annotations

import re

import comfy.sd

MARKER = "<|image|>"
BRACKET = re.compile(r"(?<!\\)[()]")


def tokenize(clip: comfy.sd.CLIP, text: str) -> tuple[dict, list[int]]:
    """The text's tokens without the markers, as the CLIP takes them, and the position in its output, chunks of 77 one
    after another, of the token before each marker: the last of the noun.

    Raises ValueError for no marker, one without a noun before it, one inside brackets, and another kind of CLIP.
    """
    *before, rest = text.split(MARKER)
    if not before:
        raise ValueError(f"text: no {MARKER} is in it, so that no picture takes effect: write it after the noun that a "
                         f"picture belongs to, such as 'a man {MARKER} in a garden'")
    for piece in (*before, rest):
        brackets = BRACKET.findall(piece)
        if brackets.count("(") != brackets.count(")"):
            raise ValueError(f"text: a {MARKER} stands between brackets, or one is left open: close them before the "
                             "marker, and write \\( for a bracket that is no emphasis")
    start, *closing = chunks(clip, "")[0]
    tokens, ends = [], []
    for number, piece in enumerate(before, 1):
        found = words(clip, piece, closing[0][0])
        if not found:
            raise ValueError(f"text: marker {number} has no noun before it: write each {MARKER} after a noun of its "
                             "own")
        tokens += found
        ends.append(len(tokens) - 1)
    tokens += words(clip, rest, closing[0][0])
    room = len(closing) - 1
    parts = [tokens[i:i + room] for i in range(0, len(tokens), room)]
    rows = [[start, *part, *closing[:len(closing) - len(part)]] for part in parts]
    return {"l": rows}, [end // room * (room + 2) + 1 + end % room for end in ends]


def chunks(clip: comfy.sd.CLIP, text: str) -> list[list[tuple]]:
    """(token, weight) pairs in rows of 77."""
    tokens = clip.tokenize(text)
    if tokens.keys() != {"l"}:
        raise ValueError("clip: it is not the text encoder of a Stable Diffusion 1.x model: connect the CLIP of Load "
                         "Face-diffuser")
    return tokens["l"]


def words(clip: comfy.sd.CLIP, text: str, end: int) -> list[tuple]:
    """The (token, weight) pairs of a text alone. An embedding's tokens are tensors."""
    found = []
    for _, *row in chunks(clip, text):
        stop = next(i for i, (token, _) in enumerate(row) if isinstance(token, int) and token == end)
        found += row[:stop]
    return found
