"""Label maps of faces: class names, palettes, conversion between pictures, indices and masks, and edits."""

from .classes import CLASSES, DISPLAY_NAMES, ORDERS, PALETTE, PARSER_ORDER, class_id, class_ids
from .convert import PALETTES, from_masks, resize_nearest, to_image, to_indices, to_masks
from .drawing import decode_drawing, encode_drawing
from .edit import grow, move, remove, replace, scale
from .landmarks import from_landmarks
from .sheet import overlay, shares, sheet

__all__ = [
    "CLASSES", "DISPLAY_NAMES", "ORDERS", "PALETTE", "PALETTES", "PARSER_ORDER",
    "class_id", "class_ids", "decode_drawing", "encode_drawing",
    "from_masks", "resize_nearest", "to_image", "to_indices", "to_masks",
    "from_landmarks",
    "grow", "move", "remove", "replace", "scale",
    "overlay", "shares", "sheet",
]
