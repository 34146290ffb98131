"""Writes `web/painter/tables.js`, the painter's copy of the classes and palettes of `mdit.labelmap`.

    python dev.py run -- python -m devtools.painter_tables

`python dev.py renew` writes the file, too.
"""
from __future__ import annotations

import json
from pathlib import Path

from mdit.labelmap import CLASSES, DEFAULT_PALETTE, PALETTES

FILE = Path(__file__).parents[1] / "web" / "painter" / "tables.js"
HEAD = "/** Classes and palettes of label maps. devtools/painter_tables.py writes this file from mdit/labelmap. */"


def tables() -> str:
    """The text of the file, one palette a line."""
    palettes = "".join(f"    {json.dumps(name)}: {json.dumps(palette.colors)},\n" for name, palette in PALETTES.items())
    return (f"{HEAD}\n\nexport const CLASSES = {json.dumps(CLASSES)};\n\n"
            "/** The 8-bit RGB of each class, by the palette's name. */\n"
            f"export const PALETTES = {{\n{palettes}}};\n\n"
            f"export const DEFAULT_PALETTE = {json.dumps(DEFAULT_PALETTE)};\n")


def main() -> None:
    FILE.write_text(tables(), "utf-8")


if __name__ == "__main__":
    main()
