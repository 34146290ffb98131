"""The node that makes control maps of label maps, for the user's own checkpoints."""
from __future__ import annotations

import logging

import torch

from comfy_api.latest import io

from ..mdit.labelmap import DEFAULT_ORDER, DEFAULT_PALETTE
from ..mdit.relief.host import describe_maps, recall_relief
from ..mdit.relief.lines import STYLES
from . import menu
from .labelmap import palette_inputs, read_and_tell


class BuildControlMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ControlMaps",
            display_name="Build Control Maps",
            category=menu.LABEL_MAPS,
            description="Builds depth, normals and line art of a label map, as ControlNets of other checkpoints read "
                        "them. A small bundled network guesses the shape from the outlines.",
            search_aliases=["label map to depth", "controlnet depth", "normal map", "line art", "canny", "scribble"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of label maps, of any size. Each face in it "
                                                    "gets its own depth."),
                io.Combo.Input("style", options=list(STYLES), default="soft",
                               tooltip="Style of the line art. " + " ".join(
                                   f"{name}: {text}" for name, text in STYLES.items())),
                io.Float.Input("gap", default=0.1, min=0.0, max=4.0, step=0.05,
                               tooltip="Distance of the black background behind the farthest point of the figure, as "
                                       "a fraction of the figure's depth."),
                *palette_inputs(),
            ],
            outputs=[
                io.Image.Output("depth", tooltip="Depth over the range of each face: near is white, the background "
                                                 "black."),
                io.Image.Output("normals", tooltip="Normals as colours: x right in red, y up in green, z to the viewer "
                                                   "in blue. The background faces the viewer."),
                io.Image.Output("lines", tooltip="White lines on black: the outlines of the classes, and creases of "
                                                 "the skin."),
                io.Mask.Output("head", tooltip="Mask of the head: face, ears, hair, hat, glasses and earrings."),
            ],
        )

    @classmethod
    def execute(cls, label_map: torch.Tensor, style: str = "soft", gap: float = 0.1, palette: str = DEFAULT_PALETTE,
                order: str = DEFAULT_ORDER) -> io.NodeOutput:
        labels = read_and_tell(label_map, palette, order)
        maps = recall_relief().build_maps(labels, style, gap)
        for note in describe_maps(labels):
            logging.info("label_map: %s", note)
        return io.NodeOutput(*maps)


NODES = (BuildControlMaps,)
