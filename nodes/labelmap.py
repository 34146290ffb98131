"""Nodes that build, split and edit label maps: images whose colors name the classes of a face."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfy_api.latest import io

from ..mdit import labelmap
from ..mdit.labelmap import AUTO, DEFAULT_ORDER, DEFAULT_PALETTE, ORDERS, PALETTES, read_label_maps
from ..mdit.labelmap.palettes import AUTO_DESCRIPTION
from ..mdit.shared.text_files import shorten
from . import menu

EXAMPLES = Path(labelmap.__file__).parent / "examples"
CLASS_LIST = ", ".join(labelmap.DISPLAY_NAMES)
EDITS = {edit.__name__: edit for edit in (
    labelmap.move, labelmap.scale, labelmap.grow, labelmap.remove, labelmap.replace)}


def palette_inputs() -> list[io.Input]:
    """The inputs `palette` and `order` of every node that reads a label-map image."""
    return [
        io.Combo.Input(
            "palette", options=[*PALETTES, AUTO], default=DEFAULT_PALETTE,
            tooltip=f"Colours of the label map. {describe_choices(PALETTES)} {AUTO}: {AUTO_DESCRIPTION}"),
        io.Combo.Input(
            "order", options=list(ORDERS), default=DEFAULT_ORDER, advanced=True,
            tooltip=f"Class order of the label map. {describe_choices(ORDERS)}"),
    ]


def describe_choices(table: dict) -> str:
    """One sentence for each palette or order of a table."""
    return " ".join(f"{name}: {entry.description}" for name, entry in table.items())


def read_and_tell(label_map: torch.Tensor, palette: str = DEFAULT_PALETTE, order: str = DEFAULT_ORDER,
                  keep_specks: bool = False) -> torch.Tensor:
    """The class indices of label maps, with the notes of the reader in the log, for nodes without a report."""
    indices, notes = read_label_maps(label_map, palette, order, keep_specks)
    for note in notes:
        logging.info("label_map: %s", note)
    return indices


def read_named(image: torch.Tensor, name: str, palette: str = DEFAULT_PALETTE,
               order: str = DEFAULT_ORDER) -> tuple[torch.Tensor, list[str]]:
    """Class indices (B, H, W) and notes of the label maps at an input, which errors and notes name."""
    try:
        indices, notes = read_label_maps(image, palette, order)
    except ValueError as error:
        raise ValueError(str(error).replace("label_map:", f"{name}:", 1)) from error
    return indices, [f"{name}: {note}" for note in notes]


def check_class(name: str | None) -> bool | str:
    """True for a part of the face by any of its names, else what is wrong; None comes over a link and is read later."""
    try:
        if name is not None:
            labelmap.find_class(name, "class_name")
    except ValueError as error:
        return str(error)
    return True


def label_map_output() -> io.Output:
    return io.Image.Output(
        "label_map", tooltip="Label map in CelebAMask-HQ colours, as an ordinary image.")


def list_examples() -> list[str]:
    """The names of the label maps that come with the pack."""
    return sorted(path.stem for path in EXAMPLES.glob("*.png"))


class ExampleLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ExampleLabelMap",
            display_name="Example Label Map",
            category=menu.LABEL_MAPS,
            description="Loads a label map that comes with the pack, 512 x 512 pixels.",
            search_aliases=["template face", "sample mask", "face parts", "load label map"],
            inputs=[io.Combo.Input("face", options=list_examples(),
                                   tooltip="Face to load. 'Edit Label Map' changes single classes.")],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, face: str) -> io.NodeOutput:
        if face not in list_examples():  # a link brings any value past the list
            known = ", ".join(list_examples())
            raise FileNotFoundError(f"face: there is no label map '{shorten(face)}': choose one of {known}")
        image = np.asarray(Image.open(EXAMPLES / f"{face}.png").convert("RGB"))  # (H, W, 3)
        return io.NodeOutput(torch.from_numpy(image / np.float32(255))[None])


class LabelMapFromMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        slot = io.Mask.Input("mask", tooltip="Pixels above 0.5 take the class at the same position in the list.")
        return io.Schema(
            node_id="MDiT_LabelMapFromMasks",
            display_name="Masks to Label Map",
            category=menu.LABEL_MAPS,
            description="Paints masks as classes into one label map; later masks lie on top. Pixels outside all "
                        "masks are background, or keep the class of the connected label map.",
            search_aliases=["build label map", "combine masks", "segmentation map", "face parts"],
            inputs=[
                io.Autogrow.Input(
                    "masks", template=io.Autogrow.TemplatePrefix(slot, prefix="mask", min=1, max=50),
                    tooltip="One mask for each class. A new slot appears when the last slot is connected."),
                io.String.Input(
                    "classes", default="skin", multiline=True, dynamic_prompts=False,
                    tooltip="Class of each connected mask from top to bottom, separated by commas or lines. "
                            f"Classes: {CLASS_LIST}."),
                io.Int.Input("width", default=0, min=0, max=16384,
                             tooltip="Width of the label map in pixels. 0: width of the connected label map, else of "
                                     "the largest mask."),
                io.Int.Input("height", default=0, min=0, max=16384,
                             tooltip="Height of the label map in pixels. 0: height of the connected label map, else "
                                     "of the largest mask."),
                io.Image.Input("label_map", optional=True,
                               tooltip="Label map to paint on, stretched to the size. Unconnected: background."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, masks: io.Autogrow.Type, classes: str, width: int = 0, height: int = 0,
                label_map: torch.Tensor | None = None) -> io.NodeOutput:
        layers = [mask for mask in masks.values() if mask is not None]
        indices = labelmap.find_classes(classes)
        if len(indices) != len(layers):
            raise ValueError(f"classes: the list has {len(indices)} names, but {len(layers)} masks are connected. "
                             "Write one class name for each mask, from top to bottom.")
        base = None if label_map is None else read_and_tell(label_map)
        h, w = labelmap.find_size(layers, base)
        for number, mask in enumerate(layers, 1):
            for doubt in labelmap.find_doubts(mask):
                logging.info("masks: mask %d %s", number, doubt)
        painted = labelmap.from_masks(list(zip(indices, layers)), height or h, width or w, base)
        return io.NodeOutput(labelmap.to_image(painted))


class LabelMapToMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LabelMapToMasks",
            display_name="Masks of Face Parts",
            category=menu.LABEL_MAPS,
            description="Makes masks of parts of the face, such as the hair, from a label map. First, each pixel takes "
                        "the class of the nearest palette colour.",
            search_aliases=["split label map", "label map to mask", "segmentation to mask", "hair mask", "eyes mask"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of label maps."),
                io.String.Input(
                    "classes", default="all", dynamic_prompts=False,
                    tooltip=f"Classes to extract, such as 'hair, hat', or 'all'. Classes: {CLASS_LIST}."),
                *palette_inputs(),
            ],
            outputs=[
                io.Mask.Output(
                    "masks", tooltip="One mask for each label map and class. The masks of the first label map come "
                                     "first, in the order of the list."),
                io.Mask.Output(
                    "union", tooltip="One mask for each label map: all pixels of the listed classes."),
            ],
        )

    @classmethod
    def execute(cls, label_map: torch.Tensor, classes: str, palette: str = DEFAULT_PALETTE,
                order: str = DEFAULT_ORDER) -> io.NodeOutput:
        indices = read_and_tell(label_map, palette, order)
        masks = labelmap.to_masks(indices, labelmap.find_classes(classes))  # (B, C, H, W)
        return io.NodeOutput(masks.flatten(0, 1), masks.amax(dim=1))


class EditLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_EditLabelMap",
            display_name="Edit Label Map",
            category=menu.LABEL_MAPS,
            description="Moves, scales, grows, removes or replaces one part of a painted face. Pixels that the "
                        "part leaves take the nearest other part.",
            search_aliases=["move face part", "resize face part", "remove glasses", "grow hair", "change hair"],
            inputs=[
                io.Image.Input(
                    "label_map", tooltip="Label map in CelebAMask-HQ colours, or a batch of label maps."),
                io.Combo.Input(
                    "class_name", display_name="part", options=list(labelmap.DISPLAY_NAMES), default="hair",
                    tooltip="Part of the face to edit. Left and right are the person's own. A label map "
                            "without this part stays as it is."),
                io.DynamicCombo.Input(
                    "operation", options=_operations(),
                    tooltip="Operation on the part. The settings of the operation appear below."),
                io.Boolean.Input(
                    "keep_specks", default=False, optional=True, advanced=True,
                    tooltip="Areas of a few pixels stay in label maps with blended edges, from compression or "
                            "resizing. Off: areas below 0.005 % of the image vanish there. Sharp label maps keep all "
                            "areas."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def validate_inputs(cls, class_name: str | None, operation: io.DynamicCombo.Type | None = None) -> bool | str:
        """Checks the class alone; the host also hands over every choice that brings inputs."""
        return check_class(class_name)

    @classmethod
    def execute(
        cls, label_map: torch.Tensor, class_name: str, operation: io.DynamicCombo.Type, keep_specks: bool = False,
    ) -> io.NodeOutput:
        settings = dict(operation)
        edit = EDITS[settings.pop("operation")]
        if "by" in settings:
            settings["by"] = labelmap.find_class(settings["by"], "by")
        part = labelmap.find_class(class_name, "class_name")
        edited = edit(read_and_tell(label_map, keep_specks=keep_specks), part, **settings)
        return io.NodeOutput(labelmap.to_image(edited))


def _operations() -> list[io.DynamicCombo.Option]:
    """The operations of EDITS, each with its function's parameters."""
    return [
        io.DynamicCombo.Option("move", [
            io.Int.Input("dx", default=0, min=-16384, max=16384,
                         tooltip="Distance in pixels to the right; negative: to the left."),
            io.Int.Input("dy", default=0, min=-16384, max=16384, tooltip="Distance in pixels down; negative: up."),
        ]),
        io.DynamicCombo.Option("scale", [
            io.Float.Input("width", default=1.0, min=0.05, max=20.0, step=0.05,
                           tooltip="Factor on the width, about the centre of the part."),
            io.Float.Input("height", default=1.0, min=0.05, max=20.0, step=0.05,
                           tooltip="Factor on the height, about the centre of the part."),
        ]),
        io.DynamicCombo.Option("grow", [
            io.Int.Input("pixels", default=4, min=-4096, max=4096,
                         tooltip="Distance in pixels that the outline moves outward; negative shrinks the part."),
        ]),
        io.DynamicCombo.Option("remove", []),
        io.DynamicCombo.Option("replace", [
            io.Combo.Input("by", options=list(labelmap.DISPLAY_NAMES), default="background",
                           tooltip="Part that replaces the edited part."),
        ]),
    ]


NODES = (ExampleLabelMap, LabelMapFromMasks, LabelMapToMasks, EditLabelMap)
