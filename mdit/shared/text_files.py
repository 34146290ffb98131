"""Texts and JSON from files and headers that nobody vouches for: read, checked and named in one place."""
from __future__ import annotations

import codecs
import dataclasses
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

LONGEST_TEXT = 2 ** 24  # bytes of a text file
LARGEST_NUMBER = 2 ** 24  # of a size or count in a header
QUOTED = 80  # letters of a user's text that an error repeats
MARKS = (  # the longer marks first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))
INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # no width, or a direction
Config = TypeVar("Config")


class Refused(ValueError):
    """Says what is wrong with a file and what to do, without its name."""


def shorten(text: object, most: int = QUOTED) -> str:
    """What an error repeats of a text: `most` letters. Half a letter becomes "?": the host cannot send it."""
    text = str(text)[:most + 1].encode("utf-8", "replace").decode()
    return text if len(text) <= most else f"{text[:most - 3]}..."


def drop_invisible(text: str) -> str:
    """The text without signs that copying brings and nobody sees. Joiners stay, since they spell words."""
    return INVISIBLE.sub("", text)


def check_file(path: str | Path, largest: int) -> int:
    """The size of a file in bytes. Links are followed.

    Raises FileNotFoundError where there is none. Raises Refused for a folder, a pipe or a device, which may never end,
    and for more than `largest` bytes.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FileNotFoundError(f"there is no file '{path}' ({error.strerror}): put the original file there") from error
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"'{path}' is a folder, pipe or device, not a file: put the original file there")
    if status.st_size > largest:
        raise Refused(f"'{path}' has {status.st_size} bytes, the most is {largest}: take the original file")
    return status.st_size


def decode_text(content: bytes) -> str:
    """A text file's text: UTF-8, or UTF-16 and UTF-32 with their mark. Raises ValueError for any other encoding."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not {encoding.upper()} (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("the text has zero bytes, as UTF-16 without a mark has: save it as UTF-8")
    return text


def read_text(file: Path) -> str:
    """A file's text. Raises ValueError, naming the file, as `decode_text` does, and as `check_file` does."""
    check_file(file, LONGEST_TEXT)
    try:
        return decode_text(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse_object(text: str, name: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError, with the name of the text, for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged ({shorten(error)}): use the original file") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} is damaged (a {type(found).__name__}, not an object): use the original file")
    return found


def read_header(kind: type[Config], header: Mapping[str, str], key: str) -> Config:
    """`build_config` of the JSON that a header holds under a key. Raises ValueError for a header without it, too."""
    if key not in header:
        raise ValueError(f"the file's header has no '{key}': use the original file")
    return build_config(kind, parse_object(header[key], key), key)


def build_config(kind: type[Config], fields: dict[str, Any], name: str) -> Config:
    """A dataclass of the fields of a JSON object, with lists as the tuples that its annotations ask for.

    Raises ValueError, with the name of the object, for fields that are unknown, missing, of another type than
    annotated, or out of range: whole numbers reach from 0 to 2 ** 24, others are finite.
    """
    hints = typing.get_type_hints(kind)
    known = dataclasses.fields(kind)
    unknown = sorted(fields.keys() - hints.keys())
    missing = [field.name for field in known if field.name not in fields and is_needed(field)]
    if unknown or missing:
        raise ValueError(f"{name}: unknown fields {shorten(unknown)}, missing fields {missing}: use the original file, "
                         "or update the pack")
    values = {key: convert(value, hints[key], f"{name}: {key}") for key, value in fields.items()}
    return kind(**values)


def is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def convert(value: Any, hint: Any, name: str) -> Any:
    """A JSON value in the type that an annotation asks for. Raises ValueError, with its name, for any other."""
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        hint = next((option for option in options if has_form(value, option)), options[0])
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build_config(hint, value, name)
    if is_tuple(hint) and isinstance(value, list):
        return convert_list(value, typing.get_args(hint), name)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        of = typing.get_args(hint)[1]
        return {key: convert(item, of, name) for key, item in value.items()}
    if not fits(value, hint):
        wanted = getattr(hint, "__name__", hint)
        raise ValueError(f"{name} is {shorten(value)}, must be {wanted}: use the original file")
    return value


def has_form(value: Any, option: Any) -> bool:
    """Whether a value can only be meant for this option of a union: a list of as many entries, or no list."""
    if not isinstance(value, list) or not is_tuple(option):
        return isinstance(value, list) == is_tuple(option)
    kinds = typing.get_args(option)
    return len(kinds) == len(value) or kinds[1:] == (...,)


def is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def convert_list(values: list, kinds: tuple, name: str) -> tuple:
    """A list as a tuple of one kind of any length, (int, ...), or of one kind for each item, (int, str)."""
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise ValueError(f"{name} has {len(values)} entries, must have {len(kinds)}: use the original file")
    return tuple(convert(value, kind, name) for value, kind in zip(values, kinds))


def fits(value: Any, kind: type) -> bool:
    """Whether a JSON value is of a type, and a number within its range."""
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST_NUMBER
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER
    return type(value) is kind
