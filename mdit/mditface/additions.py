"""What other nodes add to a run for other models, where the model is a stand-alone MDiT."""
from __future__ import annotations

import logging
import traceback

from ..shared.masks import REPORT_KEY


def note_patches(transformer_options: dict):
    """A line in report and log for patches of other nodes that a stand-alone model never calls."""
    patches = transformer_options.get("patches", {}).keys() - {"double_block"}
    replaced = transformer_options.get("patches_replace", {}).keys() - {"dit"}
    if not patches | replaced:
        return
    note = (f"without effect on a stand-alone MDiT: patches of another node for {', '.join(sorted(patches | replaced))}"
            " (made for other models)")
    logging.warning("MDiT: %s", note)
    if REPORT_KEY in transformer_options:
        transformer_options[REPORT_KEY].notes.append(note)


def find_foreign_module(error: Exception) -> str | None:
    """The outermost module of the error's traceback that belongs neither to the host nor to this pack."""
    own = ("comfy", "comfy_extras", "torch", __name__.split(".mdit.")[0])
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if not any(module == root or module.startswith(f"{root}.") for root in own):
            return module
    return None
