"""Benches of `python dev.py bench NAME`. Importing one makes the host, and the pack as `mditface`, importable."""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from devtools.host import load_pack

if "mditface" not in sys.modules:
    BASE = tempfile.TemporaryDirectory(prefix="mditface-bench-")  # lives as long as the process
    load_pack(Path(BASE.name))
