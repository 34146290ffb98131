"""Label maps of faces: class names, palettes, conversion between pictures, indices and masks, and edits."""

from .classes import CLASSES, DISPLAY_NAMES, ORDERS, PALETTE, PARSER_ORDER, class_id, class_ids
from .convert import PALETTES, from_masks, resize_nearest, to_image, to_indices, to_masks
from .edit import grow, move, remove, replace, scale

__all__ = [
    "CLASSES", "DISPLAY_NAMES", "ORDERS", "PALETTE", "PALETTES", "PARSER_ORDER",
    "class_id", "class_ids",
    "from_masks", "resize_nearest", "to_image", "to_indices", "to_masks",
    "grow", "move", "remove", "replace", "scale",
]
