"""The 19 classes of a face label map, their colours and their two orders in use (spec mditface.md, 3.2)."""

from __future__ import annotations

import re

CLASSES = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)

DISPLAY_NAMES = (
    "background", "skin", "nose", "glasses", "left eye", "right eye", "left brow", "right brow", "left ear",
    "right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "clothes",
)

# 8-bit RGB of each class.
PALETTE = (
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
    (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
    (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0),
)

# PARSER_ORDER[k] is the id here of the class that the common face parsers number k.
PARSER_ORDER = tuple(CLASSES.index(name) for name in (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
))

ORDERS = {"CelebAMask-HQ": tuple(range(len(CLASSES))), "face parser": PARSER_ORDER}

_IDS = {name: k for names in (DISPLAY_NAMES, CLASSES) for k, name in enumerate(names)}


def class_id(name: str, source: str = "classes") -> int:
    """Id of a class by its name ("l_eye") or display name ("left eye").

    Raises ValueError, which names the input `source`, for any other name.
    """
    try:
        return _IDS[name.strip().lower()]
    except KeyError:
        raise ValueError(f"{source}: {name.strip()!r} is no class of a label map. "
                         f"Use some of: {', '.join(CLASSES)}.") from None


def class_ids(text: str, source: str = "classes") -> list[int]:
    """Ids of the classes in a text list split by commas, semicolons or lines; "all" stands for all 19.

    Raises ValueError, which names the input `source`, for an unknown name and for an empty list.
    """
    names = [name for name in re.split(r"[,;\n]", text) if name.strip()]
    if not names:
        raise ValueError(f'{source}: the list is empty. Write class names such as "hair, hat", or "all".')
    if [name.strip().lower() for name in names] == ["all"]:
        return list(range(len(CLASSES)))
    return [class_id(name, source) for name in names]
