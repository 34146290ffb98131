"""The palettes and class orders in which label-map images are saved (docs/systems/label-maps.md).

A new palette or order is one entry in PALETTES or ORDERS: the nodes' choices and tooltips and the painter's import
follow from these two tables. `python dev.py renew` writes the painter's copy, `web/painter/tables.js`.
"""

from __future__ import annotations

from typing import NamedTuple

from .classes import CLASSES

Color = tuple[int, int, int]  # 8-bit RGB


class Palette(NamedTuple):
    """The colors of a label-map image.

    description: what the pixels show, for the tooltip.
    colors: the color of the k-th class of the image's class order, for each k.
    """
    description: str
    colors: tuple[Color, ...]


class Order(NamedTuple):
    """The numbering of the classes in a label-map image.

    description: which images use the order, for the tooltip.
    classes: the index in CLASSES of the k-th class, for each k.
    """
    description: str
    classes: tuple[int, ...]


def gray_levels(levels: list[int]) -> tuple[Color, ...]:
    return tuple((level, level, level) for level in levels)


# The colors of CelebAMask-HQ; the pack's own label maps have them.
PALETTE = (
    (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
    (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
    (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0),
)

PALETTES = {
    "colours": Palette("CelebAMask-HQ colours.", PALETTE),
    "grey indices": Palette(
        "Grey levels 0 to 18 of 255, which are almost black.",
        gray_levels(list(range(len(CLASSES))))),
    "index picture": Palette(
        "Grey levels that spread the 19 classes evenly from black to white.",
        gray_levels([round(255 * k / (len(CLASSES) - 1)) for k in range(len(CLASSES))])),
}
DEFAULT_PALETTE = "colours"

PARSER_ORDER = tuple(CLASSES.index(name) for name in (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
))

ORDERS = {
    "CelebAMask-HQ": Order("Label maps of CelebAMask-HQ and of this pack.", tuple(range(len(CLASSES)))),
    "face parser": Order(
        "Output of the common face parsers (background, skin, brows, eyes, glasses, ...).", PARSER_ORDER),
}
DEFAULT_ORDER = "CelebAMask-HQ"
