"""The 19 classes of a face label map (docs/design/mditface.md, section 3.2)."""

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

_INDICES = {name: index for names in (DISPLAY_NAMES, CLASSES) for index, name in enumerate(names)}


def find_class(name: str, source: str = "classes") -> int:
    """Index of a class by its name ("l_eye") or display name ("left eye").

    Raises ValueError, which names the input `source`, for any other name.
    """
    try:
        return _INDICES[name.strip().lower()]
    except KeyError:
        raise ValueError(f"{source}: {name.strip()!r} is no class of a label map. "
                         f"Use names from this list: {', '.join(CLASSES)}.") from None


def find_classes(text: str, source: str = "classes") -> list[int]:
    """Indices of the classes in a list separated by commas, semicolons or line breaks; "all" stands for all 19.

    Raises ValueError, which names the input `source`, for an unknown name and for an empty list.
    """
    names = [name for name in re.split(r"[,;\n]", text) if name.strip()]
    if not names:
        raise ValueError(f'{source}: the list is empty. Write class names such as "hair, hat", or "all".')
    if [name.strip().lower() for name in names] == ["all"]:
        return list(range(len(CLASSES)))
    return [find_class(name, source) for name in names]
