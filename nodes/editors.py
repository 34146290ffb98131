"""Parts that nodes with an editor in the front end (`web/shared`) have in common."""
from __future__ import annotations

from comfy_api.latest import UI, io
from torch import Tensor


def background_input(purpose: str) -> io.Input:
    return io.Image.Input(
        "background", optional=True,
        tooltip=f"Image to show under the drawing. {purpose} An image from other nodes appears after the first run.")


def show_images(**images: Tensor | None) -> dict:
    """The ui result of a run for the editor: by input, the first of its images (B, H, W, C), if it is connected."""
    return {name: UI.PreviewImage(image[:1]).as_dict()["images"] for name, image in images.items() if image is not None}


def editor_options(kind: str, meaning: str) -> dict:
    """Options of the text that an editor of the front end writes.

    The meaning stands in lists of nodes only: as a tooltip it would lie over the drawing.
    """
    return {"widgetType": kind, "meaning": meaning}
