"""The host's nodes that save models, for the tests of every system."""
from __future__ import annotations

from pathlib import Path

from comfy_extras import nodes_model_merging as merging


def save(kind: str, folder: Path, **inputs) -> str:
    """Runs a saving node of the host, such as "CheckpointSave", and gives the path of the file that it wrote."""
    folder.mkdir(exist_ok=True)
    node = getattr(merging, kind)()
    node.output_dir = str(folder)
    node.save(filename_prefix="saved", prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": []}}, **inputs)
    return str(*folder.glob("saved*"))
