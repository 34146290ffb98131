"""Nodes that build, split and edit label maps: pictures whose colours name the parts of a face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfy_api.latest import io

from ..mdit import labelmap

CATEGORY = "MDiTFace/label map"
EXAMPLES = Path(labelmap.__file__).parent / "examples"
CLASS_LIST = ", ".join(labelmap.CLASSES)
EDITS = {edit.__name__: edit for edit in (
    labelmap.move, labelmap.scale, labelmap.grow, labelmap.remove, labelmap.replace)}


def palette_inputs() -> list[io.Input]:
    """How to read a label-map picture: the inputs `palette` and `order` of every node that takes one."""
    return [
        io.Combo.Input(
            "palette", options=list(labelmap.PALETTES), default="colours",
            tooltip="What the pixels of the label map show. colours: the CelebAMask-HQ colours. "
                    "grey indices: grey level 0 to 18 of 255, nearly black to the eye. "
                    "index picture: the 19 classes spread evenly over black to white."),
        io.Combo.Input(
            "order", options=list(labelmap.ORDERS), default="CelebAMask-HQ", advanced=True,
            tooltip="The class order that the pixel values count in. Choose 'face parser' for the output of "
                    "the common face parsers (background, skin, brows, eyes, glasses, ...)."),
    ]


def label_map_output() -> io.Output:
    return io.Image.Output(
        "label_map", tooltip="Label map in CelebAMask-HQ colours; preview, save, paint or tokenize it.")


class ExampleLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ExampleLabelMap",
            display_name="Load Example Label Map",
            category=CATEGORY,
            description="One of the label maps that come with the pack, 512 x 512 pixels, to start from.",
            search_aliases=["template face", "sample mask", "face parts", "mditface"],
            inputs=[io.Combo.Input("face", options=sorted(path.stem for path in EXAMPLES.glob("*.png")),
                                   tooltip="Which face. Edit it with Edit Label Map, or save and repaint it.")],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, face: str) -> io.NodeOutput:
        picture = np.asarray(Image.open(EXAMPLES / f"{face}.png").convert("RGB"))  # (H, W, 3)
        return io.NodeOutput(torch.from_numpy(picture / np.float32(255))[None])


class LabelMapFromMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        slot = io.Mask.Input("mask", tooltip="Pixels above 0.5 take the class of the same place in the list.")
        return io.Schema(
            node_id="MDiT_LabelMapFromMasks",
            display_name="Build Label Map from Masks",
            category=CATEGORY,
            description="Paints masks as face parts into one label map, the later ones on top. Pixels under "
                        "no mask are background, or stay as in a label map to paint on.",
            search_aliases=["mask to label map", "combine masks", "segmentation map", "face parts"],
            inputs=[
                io.Autogrow.Input(
                    "masks", template=io.Autogrow.TemplatePrefix(slot, prefix="mask", min=1, max=50),
                    tooltip="One mask for each part; a new slot appears when the last one is connected."),
                io.String.Input(
                    "classes", default="skin", multiline=True, dynamic_prompts=False,
                    tooltip="The class of each connected mask from top to bottom, split by commas or lines. "
                            f"Classes: {CLASS_LIST}."),
                io.Int.Input("width", default=0, min=0, max=16384,
                             tooltip="Width of the label map in pixels; 0 takes the first mask's."),
                io.Int.Input("height", default=0, min=0, max=16384,
                             tooltip="Height of the label map in pixels; 0 takes the first mask's."),
                io.Image.Input("label_map", optional=True,
                               tooltip="Label map to paint on, stretched to the size. Unconnected: background."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, masks: io.Autogrow.Type, classes: str, width: int = 0, height: int = 0,
                label_map: torch.Tensor | None = None) -> io.NodeOutput:
        layers = list(masks.values())
        ids = labelmap.class_ids(classes)
        if len(ids) != len(layers):
            raise ValueError(f"classes: {len(ids)} names for {len(layers)} connected masks. "
                             "Write one class name for each mask, from top to bottom.")
        h, w = layers[0].shape[-2:]
        base = None if label_map is None else labelmap.to_indices(label_map)
        indices = labelmap.from_masks(list(zip(ids, layers)), height or h, width or w, base)
        return io.NodeOutput(labelmap.to_image(indices))


class LabelMapToMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LabelMapToMasks",
            display_name="Split Label Map into Masks",
            category=CATEGORY,
            description="Cuts the chosen face parts out of a label map as masks. Each pixel is snapped to "
                        "the nearest palette entry first.",
            search_aliases=["label map to mask", "segmentation to mask", "hair mask", "face parts"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of them."),
                io.String.Input(
                    "classes", default="all", dynamic_prompts=False,
                    tooltip=f"Classes to cut out, such as 'hair, hat', or 'all'. Classes: {CLASS_LIST}."),
                *palette_inputs(),
            ],
            outputs=[
                io.Mask.Output(
                    "masks", tooltip="One mask for each picture and class: all classes of the first picture "
                                     "in the order of the list, then those of the next."),
                io.Mask.Output(
                    "union", tooltip="One mask for each picture: every pixel of any chosen class."),
            ],
        )

    @classmethod
    def execute(cls, label_map: torch.Tensor, classes: str, palette: str = "colours",
                order: str = "CelebAMask-HQ") -> io.NodeOutput:
        indices = labelmap.to_indices(label_map, palette, order)
        masks = labelmap.to_masks(indices, labelmap.class_ids(classes))  # (B, C, H, W)
        return io.NodeOutput(masks.flatten(0, 1), masks.amax(dim=1))


class EditLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_EditLabelMap",
            display_name="Edit Label Map",
            category=CATEGORY,
            description="Moves, scales, grows, removes or replaces one face part of a label map. Pixels that "
                        "the part leaves are filled from the nearest other part.",
            search_aliases=["move face part", "resize face part", "remove glasses", "grow hair"],
            inputs=[
                io.Image.Input(
                    "label_map", tooltip="Label map in CelebAMask-HQ colours, or a batch of them."),
                io.Combo.Input(
                    "class_name", display_name="class", options=list(labelmap.CLASSES), default="hair",
                    tooltip="The class to edit; l_ and r_ are the person's own left and right. A picture "
                            "without it stays as it is."),
                io.DynamicCombo.Input(
                    "operation", options=_operations(),
                    tooltip="What to do with the class; its settings appear below."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(
        cls, label_map: torch.Tensor, class_name: str, operation: io.DynamicCombo.Type,
    ) -> io.NodeOutput:
        settings = dict(operation)
        edit = EDITS[settings.pop("operation")]
        if "by" in settings:
            settings["by"] = labelmap.class_id(settings["by"])
        indices = edit(labelmap.to_indices(label_map), labelmap.class_id(class_name), **settings)
        return io.NodeOutput(labelmap.to_image(indices))


def _operations() -> list[io.DynamicCombo.Option]:
    """The operations of EDITS, each with its function's parameters."""
    return [
        io.DynamicCombo.Option("move", [
            io.Int.Input("dx", default=0, min=-16384, max=16384, tooltip="Pixels right; negative: left."),
            io.Int.Input("dy", default=0, min=-16384, max=16384, tooltip="Pixels down; negative: up."),
        ]),
        io.DynamicCombo.Option("scale", [
            io.Float.Input("width", default=1.0, min=0.05, max=20.0, step=0.05,
                           tooltip="Factor on the part's width, about its centre."),
            io.Float.Input("height", default=1.0, min=0.05, max=20.0, step=0.05,
                           tooltip="Factor on the part's height, about its centre."),
        ]),
        io.DynamicCombo.Option("grow", [
            io.Int.Input("pixels", default=4, min=-4096, max=4096,
                         tooltip="How far the outline moves outwards, in pixels; negative shrinks the part."),
        ]),
        io.DynamicCombo.Option("remove", []),
        io.DynamicCombo.Option("replace", [
            io.Combo.Input("by", options=list(labelmap.CLASSES), default="background",
                           tooltip="The class that takes the part's place."),
        ]),
    ]


NODES = (ExampleLabelMap, LabelMapFromMasks, LabelMapToMasks, EditLabelMap)
