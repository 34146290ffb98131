"""What nodes with an editor in the front end share (`web/shared`)."""
from __future__ import annotations

from comfy_api.latest import UI, io
from torch import Tensor


def background_input(purpose: str) -> io.Input:
    return io.Image.Input(
        "background", optional=True,
        tooltip=f"A picture to draw over, shown underneath. {purpose} A picture made by other nodes appears once the "
                "graph has run.")


def shown(background: Tensor | None) -> dict:
    """What a run hands to the editor: the first connected picture (B, H, W, C), if any."""
    return {} if background is None else {"background": UI.PreviewImage(background[:1]).as_dict()["images"]}
