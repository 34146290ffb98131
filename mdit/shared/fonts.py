"""Fonts for the letters of users' words in drawn images."""
from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from PIL import ImageFont

from .text_files import drop_invisible

DATA = Path(__file__).parent / "data"
# Pillow's own for plain Latin letters; the pack's; then files of the system's font folders on Linux, Windows and macOS,
# which Pillow finds by name.
FILES = (
    None, str(DATA / "NotoSansCJK-subset.otf"), "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "msyh.ttc",
    "malgun.ttf", "YuGothM.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf",
    "wqy-microhei.ttc", "DroidSansFallbackFull.ttf", "DejaVuSans.ttf", "segoeui.ttf", "seguiemj.ttf", "unifont.otf")
UNASSIGNED = "\U0010ffff"  # a letter of no font
TEST_SIZE = 24


def choose_font(text: str, size: float) -> ImageFont.FreeTypeFont:
    """The first font that has all letters of the text, else the one that lacks fewest."""
    return _load(_choose_file(text), size)


def find_missing(texts: Iterable[str]) -> list[str]:
    """The letters of some texts that the font of their text lacks, each once."""
    missing = set()
    for text in map(compose, texts):
        file = _choose_file(text)
        missing.update(letter for letter in text if not _has_letter(file, letter))
    return sorted(missing)


def compose(text: str) -> str:
    """The text with letters and their accents as one character, which fonts have, and without invisible ones."""
    return unicodedata.normalize("NFC", drop_invisible(text))


def _choose_file(text: str) -> str | None:
    lacks = {}
    for file in FILES:
        lacks[file] = sum(not _has_letter(file, letter) for letter in text)
        if lacks[file] == 0:
            return file
    return min(lacks, key=lacks.get)


@cache
def _load(file: str | None, size: float) -> ImageFont.FreeTypeFont | None:
    """The font, or None if the system lacks it. No file: Pillow's own."""
    try:
        return ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    except OSError:
        return None


@cache
def _has_letter(file: str | None, letter: str) -> bool:
    font = _load(file, TEST_SIZE)
    if font is None or letter.isspace():
        return font is not None
    shape = font.getmask(letter)
    other = font.getmask(UNASSIGNED)
    return (shape.size, bytes(shape)) != (other.size, bytes(other))
