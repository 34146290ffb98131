"""Writes `web/painter/tables.js`, the painter's copy of the classes and their colors in `mdit.labelmap`.

    python dev.py run -- python -m devtools.painter_tables

`python dev.py renew` writes the file, too.
"""
from __future__ import annotations

import json
from pathlib import Path

from mdit.labelmap import CLASSES, PALETTE

FILE = Path(__file__).parents[1] / "web" / "painter" / "tables.js"
HEAD = "/** Classes of label maps and their colors. devtools/painter_tables.py writes this file from mdit/labelmap. */"


def tables() -> str:
    """The text of the file."""
    return (f"{HEAD}\n\nexport const CLASSES = {json.dumps(CLASSES)};\n\n"
            "/** 8-bit RGB of each class. */\n"
            f"export const PALETTE = {json.dumps(PALETTE)};\n")


def main() -> None:
    FILE.write_text(tables(), "utf-8")


if __name__ == "__main__":
    main()
