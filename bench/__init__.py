"""Benches of `python dev.py bench NAME`. Importing one makes the host, and the pack as `mditface`, importable."""
from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from devtools.host import load_pack

if "mditface" not in sys.modules:
    BASE = tempfile.TemporaryDirectory(prefix="mditface-bench-")  # lives as long as the process
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args
    args.use_pytorch_cross_attention = True  # as on GPUs; the host's choice for the CPU is much slower
    load_pack(Path(BASE.name))
