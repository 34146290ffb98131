"""The palettes and class orders in which label-map images are saved (docs/systems/label-maps.md).

A new palette or order is one entry in PALETTES or ORDERS: the nodes' choices and tooltips and the painter's import
follow from these two tables. A color table of another program is one entry in FOREIGN: "auto" and the painter read it,
and errors name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
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
    unmapped: names of the numbers that no class fits. They become background.
    """
    description: str
    classes: tuple[int, ...]
    unmapped: Mapping[int, str] = MappingProxyType({})


class ForeignColors(NamedTuple):
    """The colors in which another program saves its label maps.

    colors: the color of the k-th class, for each k.
    order: the key in ORDERS of the program's class order; None if many programs share the colors.
    """
    colors: tuple[Color, ...]
    order: str | None


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
AUTO = "auto"
AUTO_DESCRIPTION = "Palette found from the image, and named in the report or the log."

PARSER_ORDER = tuple(CLASSES.index(name) for name in (
    "background", "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
))

# "out" stands for a class of another program that no class of ours fits.
LAPA_ORDER = "background skin l_brow r_brow l_eye r_eye nose u_lip mouth l_lip hair l_ear r_ear eye_g"
FACER_ORDER = ("background neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat "
               "ear_r neck_l")
MEDIAPIPE_ORDER = "background hair neck skin cloth out"
SAPIENS_ORDER = ("background cloth skin hair out out out out out out out out cloth out out out out out out out out out "
                 "cloth l_lip u_lip mouth mouth mouth")
SAPIENS_LIMBS = (
    "left foot", "left hand", "left lower arm", "left lower leg", "left shoe", "left sock", "left upper arm",
    "left upper leg", "right foot", "right hand", "right lower arm", "right lower leg", "right shoe", "right sock",
    "right upper arm", "right upper leg", "torso")


def map_classes(description: str, names: str, unmapped: Sequence[str] = ()) -> Order:
    """The order whose k-th class has the k-th of the `names`; `unmapped` are the names of the classes "out"."""
    row = names.split()
    out = [k for k, name in enumerate(row) if name == "out"]
    classes = tuple(0 if name == "out" else CLASSES.index(name) for name in row)
    return Order(description, classes, MappingProxyType(dict(zip(out, unmapped, strict=True))))


ORDERS = {
    "CelebAMask-HQ": Order("Label maps of CelebAMask-HQ and of this pack.", tuple(range(len(CLASSES)))),
    "face parser": Order(
        "Output of the common face parsers (background, skin, brows, eyes, glasses, ...).", PARSER_ORDER),
    "LaPa": map_classes("LaPa, HELEN and iBug, 11 or 14 classes.", LAPA_ORDER),
    "facer": map_classes("FaRL's parser in facer (background, neck, skin, clothes, ...).", FACER_ORDER),
    "MediaPipe": map_classes(
        "MediaPipe's multiclass selfie model; 'others' becomes background.", MEDIAPIPE_ORDER, ["others"]),
    "Sapiens": map_classes(
        "Sapiens' 28 body parts; torso, limbs and shoes become background.", SAPIENS_ORDER, SAPIENS_LIMBS),
}
DEFAULT_ORDER = "CelebAMask-HQ"


def voc_color(k: int) -> Color:
    """The k-th color of PASCAL VOC, in which many programs show index images.

    Bit 3 i + c of k is bit 7 - i of channel c.
    """
    channels = [0, 0, 0]
    for bit in range(9):
        channels[bit % 3] |= (k >> bit & 1) << 7 - bit // 3
    red, green, blue = channels
    return red, green, blue


FOREIGN = {
    "face-parsing colours": ForeignColors((
        (0, 0, 0), (255, 0, 0), (150, 30, 150), (255, 65, 255), (150, 80, 0), (170, 120, 65), (220, 180, 210),
        (255, 125, 125), (200, 100, 100), (215, 175, 125), (125, 125, 125), (255, 150, 0), (255, 255, 0), (0, 255, 255),
        (255, 225, 120), (125, 125, 255), (0, 255, 0), (0, 0, 255), (0, 150, 80),
    ), "face parser"),
    "BiSeNet demo colours": ForeignColors((
        (255, 255, 255), (255, 85, 0), (255, 170, 0), (255, 0, 85), (255, 0, 170), (0, 255, 0), (85, 255, 0),
        (170, 255, 0), (0, 255, 85), (0, 255, 170), (0, 0, 255), (85, 0, 255), (170, 0, 255), (0, 85, 255),
        (0, 170, 255), (255, 255, 0), (255, 255, 85), (255, 255, 170), (255, 0, 255),
    ), "face parser"),
    "LaPa colours": ForeignColors((
        (0, 0, 0), (0, 153, 255), (102, 255, 153), (0, 204, 153), (255, 255, 102), (255, 255, 204), (255, 153, 0),
        (255, 102, 255), (102, 0, 51), (255, 204, 255), (255, 0, 102),
    ), "LaPa"),
    "iBug colours": ForeignColors((
        (0, 0, 0), (255, 255, 0), (139, 76, 57), (139, 54, 38), (0, 205, 0), (0, 138, 0), (154, 50, 205),
        (72, 118, 255), (255, 165, 0), (0, 0, 139), (255, 0, 0),
    ), "LaPa"),
    "Sapiens colours": ForeignColors((
        (50, 50, 50), (255, 218, 0), (128, 200, 255), (255, 0, 109), (189, 0, 204), (255, 0, 218), (0, 160, 204),
        (0, 255, 145), (204, 0, 131), (182, 0, 255), (255, 109, 0), (0, 255, 255), (72, 0, 255), (204, 131, 0),
        (255, 0, 0), (72, 255, 0), (189, 204, 0), (182, 255, 0), (102, 0, 204), (32, 72, 204), (0, 145, 255),
        (14, 204, 0), (0, 128, 72), (235, 205, 119), (115, 227, 112), (157, 113, 143), (132, 93, 50), (82, 21, 114),
    ), "Sapiens"),
    "PASCAL VOC colours": ForeignColors(tuple(map(voc_color, range(28))), None),
}
