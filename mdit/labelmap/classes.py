"""The 19 classes of a face label map (docs/design/mditface.md, section 3.2)."""

from __future__ import annotations

import re
import unicodedata

from ..shared.text_files import drop_invisible, shorten

CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)

DISPLAY_NAMES = (
    "background", "skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow", "left ear",
    "right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "clothes",
)

# The names in Chinese, as the nodes and the painter show them.
CHINESE_NAMES = (
    "\u80cc\u666f", "\u76ae\u80a4", "\u9f3b\u5b50", "\u773c\u955c", "\u5de6\u773c", "\u53f3\u773c",
    "\u5de6\u7709", "\u53f3\u7709", "\u5de6\u8033", "\u53f3\u8033", "\u53e3\u8154", "\u4e0a\u5507",
    "\u4e0b\u5507", "\u5934\u53d1", "\u5e3d\u5b50", "\u8033\u73af", "\u9879\u94fe", "\u9888\u90e8",
    "\u8863\u670d",
)
MOST_NAMES = 100
EVERYTHING = ("all", "\u5168\u90e8")

# NFKC has made the full-width comma, semicolon, colon and bar plain; the ideographic and the Arabic comma stay.
_SEPARATORS = re.compile(r"[,;|\n\u3001\u060c]")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f\u300a\u300b"
_AROUND = f" \t\r[](){{}}.\u3002{_QUOTES}"


def _fold(name: str) -> str:
    """A name without width, case, quotes, and the signs that join its words."""
    plain = drop_invisible(unicodedata.normalize("NFKC", name)).lower().strip(_AROUND)
    return re.sub(r"[\s_-]+", "", plain)


_INDICES = {
    _fold(name): index for names in (DISPLAY_NAMES, CHINESE_NAMES, CLASSES, tuple(map(str, range(len(CLASSES)))))
    for index, name in enumerate(names)
}


def find_class(name: str, source: str = "classes") -> int:
    """Index of a class by its id ("l_eye"), its English or Chinese display name ("left eye") or its number ("4").

    Case, quotes, full-width characters, and blanks, hyphens or underscores between the words do not count.
    Raises ValueError, which names the input `source`, for any other name.
    """
    try:
        return _INDICES[_fold(name)]
    except KeyError:
        raise ValueError(f"{source}: {shorten(name.strip())!r} is no class of a label map. "
                         f"Use names from this list: {', '.join(DISPLAY_NAMES)}.") from None


def find_classes(text: str, source: str = "classes") -> list[int]:
    """Indices of the classes in a list; "all" stands for all 19.

    Commas, semicolons, bars and line breaks separate the names, full-width and ideographic ones, too. Brackets and
    quotes around the list or around a name are dropped.
    Raises ValueError, which names the input `source`, for an unknown name, an empty list and more than 100 names.
    """
    plain = drop_invisible(unicodedata.normalize("NFKC", text))
    names = [name for name in _SEPARATORS.split(plain) if name.strip(_AROUND)]
    if not names:
        raise ValueError(f'{source}: the list is empty. Write class names such as "hair, hat", or "all".')
    if len(names) > MOST_NAMES:
        raise ValueError(f"{source}: the list has {len(names)} names, at most {MOST_NAMES} are read. Shorten it.")
    if len(names) == 1 and _fold(names[0]) in EVERYTHING:
        return list(range(len(CLASSES)))
    return [find_class(name, source) for name in names]
