"""Prompts with `<|image|>` after the nouns that images belong to: docs/design/face-diffuser.md, section 3.1."""
from __future__ import annotations

import re

import comfy.sd

MARKER = "<|image|>"
BRACKET = re.compile(r"(?<!\\)[()]")


def tokenize(clip: comfy.sd.CLIP, text: str) -> tuple[dict, list[int]]:
    """The tokens of the text without its markers, for the CLIP, and the position of the token before each marker.

    That token is the last of the noun. Positions count in the CLIP's output, rows of 77 one after another.
    Raises ValueError for no marker, one without a noun before it, one inside brackets, and another kind of CLIP.
    """
    *nouns, rest = text.split(MARKER)
    check_markers(nouns, rest)
    start, *closing = tokenize_rows(clip, "")[0]
    end = closing[0][0]
    tokens = []
    last_tokens = []
    for number, piece in enumerate(nouns, 1):
        found = tokenize_piece(clip, piece, end)
        if not found:
            raise ValueError(f"text: marker {number} has no noun before it: write each {MARKER} after a noun of its "
                             "own")
        tokens += found
        last_tokens.append(len(tokens) - 1)
    tokens += tokenize_piece(clip, rest, end)
    room = len(closing) - 1  # tokens in a row, between the start and an end
    rows = []
    for i in range(0, len(tokens), room):
        chunk = tokens[i:i + room]
        rows.append([start, *chunk, *closing[:len(closing) - len(chunk)]])
    positions = [last // room * (room + 2) + 1 + last % room for last in last_tokens]
    return {"l": rows}, positions


def check_markers(nouns: list[str], rest: str):
    """Raises ValueError unless the text has a marker and every marker is outside of brackets."""
    if not nouns:
        raise ValueError(f"text: it has no {MARKER}, so no image would be used: write it after the noun that an image "
                         f"belongs to, such as 'a man {MARKER} in a garden'")
    for piece in (*nouns, rest):
        brackets = BRACKET.findall(piece)
        if brackets.count("(") != brackets.count(")"):
            raise ValueError(f"text: a {MARKER} is inside brackets, or a bracket is left open: close brackets before "
                             "the marker, and write \\( for a bracket that is no emphasis")


def tokenize_rows(clip: comfy.sd.CLIP, text: str) -> list[list[tuple]]:
    """(token, weight) pairs in rows of 77."""
    tokens = clip.tokenize(text)
    if tokens.keys() != {"l"}:
        raise ValueError("clip: it is not the text encoder of a Stable Diffusion 1.x model: connect the CLIP of 'Load "
                         "Face-diffuser'")
    return tokens["l"]


def tokenize_piece(clip: comfy.sd.CLIP, text: str, end: int) -> list[tuple]:
    """The (token, weight) pairs of a text without start and end. An embedding's tokens are tensors."""
    found = []
    for _, *row in tokenize_rows(clip, text):
        stop = next(i for i, (token, _) in enumerate(row) if isinstance(token, int) and token == end)
        found += row[:stop]
    return found
