"""The node for painting label maps; its editor is `web/painter.js`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfy_api.latest import io

from ..mdit import labelmap
from . import menu
from .editors import background_input, editor_options, show_images
from .labelmap import check_class, label_map_output, read_named

TEMPLATES = Path(__file__).parents[1] / "web" / "painter" / "templates"
FIRST_TEMPLATE = "long-hair.png"


@cache
def first_drawing() -> str:
    """The drawing of a new node: a template face, which is valid input at once."""
    return labelmap.encode_drawing(torch.from_numpy(np.array(Image.open(TEMPLATES / FIRST_TEMPLATE))))


class PaintLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PaintLabelMap",
            display_name="Paint Face",
            category=menu.START,
            description="Paints the label map of a face. Brush, fill and polygon paint parts; one part can be moved "
                        "and scaled; template faces give a start. The graph saves the drawing.",
            search_aliases=["paint label map", "draw face parts", "mask editor", "segmentation editor", "start here"],
            inputs=[
                io.String.Input(
                    "drawing", default=first_drawing(), socketless=True,
                    extra_dict=editor_options("MDIT_LABEL_MAP", "Painted label map as text: size and compressed "
                                                                "classes. The painter writes the text.")),
                io.Combo.Input(
                    "class_name", display_name="mask of", options=list(labelmap.DISPLAY_NAMES), default="hair",
                    tooltip="Part of the face that the output mask shows. Left and right are the person's own."),
                background_input("The label map does not contain the image."),
                io.Image.Input(
                    "start", optional=True,
                    tooltip="Label map to start from, such as that of 'Parse Face', in any palette. A button of the "
                            "painter takes it over as the drawing; a label map from other nodes is offered after the "
                            "first run. It stands for a drawing of background alone and changes no other drawing."),
            ],
            outputs=[
                label_map_output(),
                io.Mask.Output("mask", tooltip="Mask of the chosen part: 1 inside, 0 outside."),
                io.Int.Output("width", tooltip="Width of the drawing in pixels."),
                io.Int.Output("height", tooltip="Height of the drawing in pixels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, drawing: str | None, class_name: str | None) -> bool | str:
        try:
            if drawing is not None:  # None: the text comes from another node and is read in execute
                labelmap.decode_drawing(drawing)
        except ValueError as error:
            return str(error)
        return check_class(class_name)

    @classmethod
    def execute(cls, drawing: str, class_name: str, background: torch.Tensor | None = None,
                start: torch.Tensor | None = None) -> io.NodeOutput:
        indices = labelmap.decode_drawing(drawing)[None]  # (1, H, W)
        if start is not None:
            first = read_named(start[:1], "start", labelmap.AUTO)[0]
            start = labelmap.to_image(first)
            if not indices.any():  # nothing is painted yet
                indices = first
        mask = labelmap.to_masks(indices, [labelmap.find_class(class_name, "class_name")])[:, 0]  # (1, H, W)
        height, width = indices.shape[1:]
        shown = show_images(background=background, start=start)
        return io.NodeOutput(labelmap.to_image(indices), mask, width, height, ui=shown)


NODES = (PaintLabelMap,)
