"""The ten crude label maps of painted.json: polygons, ellipses and lines in class colours, like hand-painted maps.

    python dev.py run -- python -m bench.quality.painted SHEET.png
"""
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mditface.mdit.labelmap import PALETTE, find_class

MASKS = Path(__file__).with_name("painted.json")
CANVAS = 512  # pixels; the unit of the shapes


class Painted(NamedTuple):
    """A painted mask.

    labels: (512, 512) uint8.
    caption: what the image should show.
    swapped: left in the map is left in the image, not the person's left.
    """
    name: str
    caption: str
    labels: np.ndarray
    swapped: bool


def paint(shapes: list[dict]) -> np.ndarray:
    """Label map (512, 512) uint8 of shapes, later ones on top."""
    canvas = Image.new("L", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        color = find_class(shape["part"])
        if "polygon" in shape:
            draw.polygon([tuple(point) for point in shape["polygon"]], fill=color)
        elif "ellipse" in shape:
            draw.ellipse(shape["ellipse"], fill=color)
        else:
            draw.line([tuple(point) for point in shape["line"]], fill=color, width=shape["width"], joint="curve")
    return np.array(canvas)


def list_painted_masks() -> list[Painted]:
    return [Painted(mask["name"], mask["caption"], paint(mask["shapes"]), mask.get("sides") == "swapped")
            for mask in json.loads(MASKS.read_text())]


def main() -> None:
    palette = np.array(PALETTE, np.uint8)
    rows = np.stack([palette[mask.labels] for mask in list_painted_masks()]).reshape(2, 5, CANVAS, CANVAS, 3)
    Image.fromarray(rows.swapaxes(1, 2).reshape(2 * CANVAS, 5 * CANVAS, 3)).save(sys.argv[1])


if __name__ == "__main__":
    main()
