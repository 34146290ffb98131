"""Parts that nodes with an editor in the front end (`web/shared`) have in common."""
from __future__ import annotations

from comfy_api.latest import UI, io
from torch import Tensor


def background_input(purpose: str) -> io.Input:
    return io.Image.Input(
        "background", optional=True,
        tooltip=f"Image to show under the drawing. {purpose} An image from other nodes appears after the first run.")


def show_background(background: Tensor | None) -> dict:
    """The ui result of a run for the editor: the first background image (B, H, W, C), if one is connected."""
    return {} if background is None else {"background": UI.PreviewImage(background[:1]).as_dict()["images"]}
