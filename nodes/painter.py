"""The node in which label maps are painted; its editor is `web/painter.js`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfy_api.latest import io

from ..mdit import labelmap
from .editors import background_input, shown
from .labelmap import CATEGORY, label_map_output

TEMPLATES = Path(__file__).parents[1] / "web" / "painter" / "templates"
FIRST_TEMPLATE = "long-hair.png"


@cache
def first_drawing() -> str:
    """The drawing of a new node: a template face, so that the node is of use before anything is painted."""
    return labelmap.encode_drawing(torch.from_numpy(np.array(Image.open(TEMPLATES / FIRST_TEMPLATE))))


class PaintLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PaintLabelMap",
            display_name="Paint Label Map",
            category=CATEGORY,
            description="Paint the parts of a face with brush, fill and polygon, move and scale one part, or start "
                        "from a template face. The drawing is saved with the graph.",
            search_aliases=["painter", "draw face parts", "mask editor", "segmentation editor", "mditface"],
            inputs=[
                io.String.Input(
                    "drawing", default=first_drawing(), socketless=True, extra_dict={"widgetType": "MDIT_LABEL_MAP"},
                    tooltip="The painted label map: size and compressed classes as text. The painter writes it."),
                io.Combo.Input(
                    "class_name", display_name="class", options=list(labelmap.CLASSES), default="hair",
                    tooltip="The class that the output mask covers; l_ and r_ are the person's own left and right."),
                background_input("It does not enter the label map."),
            ],
            outputs=[
                label_map_output(),
                io.Mask.Output("mask", tooltip="1 where the drawing shows the chosen class, else 0."),
                io.Int.Output("width", tooltip="Width of the drawing in pixels."),
                io.Int.Output("height", tooltip="Height of the drawing in pixels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, drawing: str | None) -> bool | str:
        try:
            if drawing is not None:  # None: the text comes from another node and is read in execute
                labelmap.decode_drawing(drawing)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, drawing: str, class_name: str, background: torch.Tensor | None = None) -> io.NodeOutput:
        indices = labelmap.decode_drawing(drawing)[None]  # (1, H, W)
        mask = labelmap.to_masks(indices, [labelmap.class_id(class_name)])[:, 0]  # (1, H, W)
        height, width = indices.shape[1:]
        return io.NodeOutput(labelmap.to_image(indices), mask, width, height, ui=shown(background))


NODES = (PaintLabelMap,)
