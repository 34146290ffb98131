"""Make the host, and the pack as the host loads it, importable in this process."""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).absolute().parents[1]


def load_pack(base: Path) -> None:
    """Import the pack under the name `mditface`; `base` becomes the folder in which the host keeps its files.

    Both the host and the pack have a module `nodes`: on the path, the pack's root must come after the host's. Without
    an accelerator, the host must be set to the CPU before one of its modules looks for a device.
    """
    host = os.environ["COMFYUI_PATH"]
    others = [path for path in sys.path if path not in ("", host, str(ROOT))]
    sys.path[:] = [host, *others, str(ROOT)]
    from comfy.cli_args import args
    args.cpu = not torch.accelerator.is_available()
    args.base_directory = str(base)
    spec = importlib.util.spec_from_file_location(
        "mditface", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["mditface"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
