"""Label maps of faces: class names, palettes, conversion between images, indices and masks, and edits."""

from .changes import describe_changes, find_changed, find_uncovered, widen_and_soften
from .classes import CLASSES, DISPLAY_NAMES, find_class, find_classes
from .convert import (
    SIDES, SOFT, find_doubts, find_size, from_masks, is_soft, resize_nearest, swap_sides, to_image, to_masks,
)
from .drawing import decode_drawing, encode_drawing
from .edit import grow, move, remove, replace, scale
from .files import read_file
from .landmarks import from_landmarks, read_landmarks
from .palettes import AUTO, DEFAULT_ORDER, DEFAULT_PALETTE, ORDERS, PALETTE, PALETTES, PARSER_ORDER
from .reading import find_entries, read_label_maps, read_rows, recognize_colors, to_indices
from .sheet import draw_sheet, measure_classes, overlay

__all__ = [
    "CLASSES", "DISPLAY_NAMES", "find_class", "find_classes",
    "AUTO", "DEFAULT_ORDER", "DEFAULT_PALETTE", "ORDERS", "PALETTE", "PALETTES", "PARSER_ORDER",
    "SIDES", "SOFT", "find_doubts", "find_size", "from_masks", "is_soft", "resize_nearest", "swap_sides", "to_image",
    "to_masks",
    "find_entries", "read_label_maps", "read_rows", "recognize_colors", "to_indices",
    "decode_drawing", "encode_drawing", "read_file",
    "from_landmarks", "read_landmarks",
    "grow", "move", "remove", "replace", "scale",
    "describe_changes", "find_changed", "find_uncovered", "widen_and_soften",
    "draw_sheet", "measure_classes", "overlay",
]
