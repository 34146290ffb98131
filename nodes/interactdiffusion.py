"""InteractDiffusion nodes: subject, action and object in boxes, on Stable Diffusion 1.x models."""
from __future__ import annotations

import logging
from pathlib import Path

import torch

import folder_paths
import node_helpers
from comfy_api.latest import io, ui

from ..mdit.interactdiffusion.draw import draw_layout
from ..mdit.interactdiffusion.encode import encode_interactions
from ..mdit.interactdiffusion.interactions import Box, Interaction, read_host_boxes, to_box
from ..mdit.interactdiffusion.patch import KEY, Reading, apply_interactions
from ..mdit.interactdiffusion.schedule import ScheduleBySteps, ScheduleByTimestep
from ..mdit.interactdiffusion.text import parse_interactions, parse_numbers
from ..mdit.interactdiffusion.weights import load_interactdiffusion
from ..mdit.shared.conds import check_conditioning
from ..mdit.shared.fonts import find_missing
from . import menu
from .editors import background_input, editor_options, show_images
from .files import add_folder, check_file, find_file, list_files
from .types import BOXES, Interactions, InteractionWeights

FOLDERS = ("interactdiffusion", "gligen")
ENDINGS = (".safetensors", ".pth", ".pt")
UNITS = ("fractions", "pixels", "thousandths")
GRID = 1000  # thousandths along a side
BOX_TIP = ("Left, top, right and bottom of the box. Or connect one BOUNDING_BOX, in pixels of an image of width x "
           "height, or SEGS with one segment.")
FULL_TIP = ("Fraction at full strength, from pure noise on: of the noise levels with 'timestep', of the sampling steps "
            "with 'steps'. Recommended for 'timestep' with a LoRA: 0.3.")  # a translation has one text for both
FIRST_LAYOUT = """[{"subject":"person","action":"feeding","object":"cat",\
"subject_box":[0.0332,0.166,0.3359,0.7305],"object_box":[0.2891,0.4766,0.668,0.793]}]"""

add_folder(FOLDERS[0], Path(folder_paths.models_dir, FOLDERS[0]), endings=ENDINGS)


def size_inputs() -> list[io.Input]:
    return [
        io.Combo.Input("units", options=list(UNITS), default=UNITS[0], optional=True, advanced=True,
                       tooltip="Unit of written boxes: fractions of the image (0 to 1), pixels of an image of width x "
                               "height, or thousandths (0 to 1000). thousandths also holds for connected boxes."),
        io.Int.Input("width", default=512, min=1, max=16384, optional=True, advanced=True,
                     tooltip="Width of the image that boxes in pixels refer to. The generated image may be larger."),
        io.Int.Input("height", default=512, min=1, max=16384, optional=True, advanced=True,
                     tooltip="Height of the image that boxes in pixels refer to."),
    ]


def previous_input() -> io.Input:
    return Interactions.Input("previous", optional=True,
                              tooltip="Interactions to put before the interactions of this node.")


def interactions_output() -> io.Output:
    return Interactions.Output(display_name="interactions",
                               tooltip="Interactions for 'Apply InteractDiffusion', 'Set Interactions' and 'Preview "
                                       "Interactions'.")


def get_grid(units: str, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the image in the unit of written boxes."""
    return {"pixels": size, "thousandths": (GRID, GRID)}.get(units, (1, 1))


def read_connected(value, source: str, units: str, size: tuple[int, int]) -> list[Box]:
    """Connected boxes. They tell pixels from fractions by themselves."""
    return read_host_boxes(value, size, source, units if units == "thousandths" else "auto")


def read_box(value, source: str, units: str, size: tuple[int, int]) -> Box:
    """A box from its text, or from a connected input that holds one box."""
    if isinstance(value, str):
        return to_box(parse_numbers(value, f"{source}:"), get_grid(units, size), source)
    boxes = read_connected(value, source, units, size)
    if len(boxes) != 1:
        raise ValueError(f"{source}: {len(boxes)} boxes are connected, but one is needed: connect several boxes to "
                         "'Interactions from Text', which takes subject and object in turn")
    return boxes[0]


class LoadInteractDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadInteractDiffusion",
            display_name="Load InteractDiffusion",
            category=menu.INTERACT_DIFFUSION,
            description="Loads InteractDiffusion weights for Stable Diffusion 1.x: the plug-in file, a complete "
                        "checkpoint of the authors, or the UNet of their diffusers version. The format is detected "
                        "from the file.",
            search_aliases=["InteractDiffusion loader", "HOI", "human object interaction", "GLIGEN"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(*FOLDERS, endings=ENDINGS),
                               tooltip="File in models/interactdiffusion or models/gligen."),
            ],
            outputs=[
                InteractionWeights.Output(display_name="weights", tooltip="Weights for 'Apply InteractDiffusion'."),
                io.Model.Output(display_name="model", tooltip="Stable Diffusion 1.x model of the file, without "
                                                              "interactions. Empty for a plug-in file."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of a complete checkpoint; otherwise empty."),
                io.Vae.Output(display_name="vae", tooltip="VAE of a complete checkpoint; otherwise empty."),
            ],
        )

    @classmethod
    def validate_inputs(cls, weights_name: str | None) -> bool | str:
        return check_file(weights_name, "weights_name", *FOLDERS, endings=ENDINGS)

    @classmethod
    def execute(cls, weights_name) -> io.NodeOutput:
        path = find_file(weights_name, "weights_name", *FOLDERS, endings=ENDINGS)
        return io.NodeOutput(*load_interactdiffusion(path, folder_paths.get_folder_paths("embeddings")))


class AddInteraction(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_Interaction",
            display_name="Add Interaction",
            category=menu.INTERACT_DIFFUSION,
            description="Makes one interaction: a subject does an action to an object, each in its own box. The model "
                        "derives the box of the action from the two boxes. Chain several of these nodes.",
            search_aliases=["HOI", "triplet", "subject action object", "box", "InteractDiffusion"],
            inputs=[
                io.String.Input("subject", default="person",
                                tooltip="Phrase for the one who acts, such as 'person' or 'old man'."),
                io.String.Input("action", default="feeding", tooltip="Phrase for the action, such as 'feeding'."),
                io.String.Input("object", default="cat", tooltip="Phrase for the one acted on, such as 'cat'."),
                io.MultiType.Input(io.String.Input("subject_box", default="0.03, 0.17, 0.34, 0.73", tooltip=BOX_TIP),
                                   BOXES),
                io.MultiType.Input(io.String.Input("object_box", default="0.29, 0.48, 0.67, 0.79", tooltip=BOX_TIP),
                                   BOXES),
                previous_input(),
                *size_inputs(),
            ],
            outputs=[interactions_output()],
        )

    @classmethod
    def execute(cls, subject, action, object, subject_box, object_box, previous=(), units=UNITS[0], width=512,
                height=512) -> io.NodeOutput:
        size = (width, height)
        made = Interaction(subject.strip(), action.strip(), object.strip(),
                           subject_box=read_box(subject_box, "subject_box", units, size),
                           object_box=read_box(object_box, "object_box", units, size))
        return io.NodeOutput((*previous, made))


class InteractionsFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_InteractionsFromText",
            display_name="Interactions from Text",
            category=menu.INTERACT_DIFFUSION,
            description="Reads interactions from text, one on each line or separated by semicolons: 'person [0.1, 0.2, "
                        "0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]'. JSON works, too. Interactions without boxes "
                        "take the connected boxes in turn.",
            search_aliases=["HOI", "triplets", "subject=action=object", "boxes", "JSON", "InteractDiffusion"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=False,
                    default="person [0.03, 0.17, 0.34, 0.73] = feeding = cat [0.29, 0.48, 0.67, 0.79]",
                    tooltip="Interactions as subject [box] = action = object [box]. A box is left, top, right and "
                            "bottom."),
                io.MultiType.Input("boxes", BOXES, optional=True,
                                   tooltip="Boxes in pixels, or SEGS, for interactions without boxes: subject, object, "
                                           "next subject, next object, and so on."),
                previous_input(),
                *size_inputs(),
            ],
            outputs=[interactions_output()],
        )

    @classmethod
    def execute(cls, text, boxes=None, previous=(), units=UNITS[0], width=512, height=512) -> io.NodeOutput:
        size = (width, height)
        found = parse_interactions(text, get_grid(units, size), read_connected(boxes, "boxes", units, size))
        return io.NodeOutput((*previous, *found))


class DrawInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_DrawInteractions",
            display_name="Draw Interactions",
            category=menu.INTERACT_DIFFUSION,
            description="Editor for interactions: draw the box of the subject, draw the box of the object, type the "
                        "words. Interactions can be moved, resized, renamed and reordered. The layout is saved with "
                        "the graph.",
            search_aliases=["box editor", "bounding boxes", "HOI", "layout", "regions", "InteractDiffusion"],
            inputs=[
                io.Int.Input("width", default=512, min=16, max=16384, step=8,
                             tooltip="Width of the image to draw on. Boxes are kept as fractions of the width."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8,
                             tooltip="Height of the image to draw on."),
                io.String.Input(
                    "text", default=FIRST_LAYOUT, socketless=True, dynamic_prompts=False,
                    extra_dict=editor_options(
                        "MDIT_LAYOUT", "Interactions as text, in the form that 'Interactions from Text' reads, with "
                                       "boxes as fractions of the image. The editor writes the text.")),
                background_input("The interactions do not contain the image."),
                previous_input(),
            ],
            outputs=[interactions_output()],
        )

    @classmethod
    def validate_inputs(cls, text: str | None) -> bool | str:
        try:
            if text is not None:  # None: another node provides it, and execute reads it
                parse_interactions(text)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, width, height, text, background=None, previous=()) -> io.NodeOutput:
        return io.NodeOutput((*previous, *parse_interactions(text)),
                             ui={"size": [width, height], **show_images(background=background)})


def schedule_options() -> list[io.DynamicCombo.Option]:
    return [
        io.DynamicCombo.Option("timestep", [
            io.Float.Input("full", default=0.8, min=0.0, max=1.0, step=0.05, tooltip=FULL_TIP),
            io.Float.Input("fade_until", default=0.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Fraction of the noise levels at which a linear fade ends. At or below 'full' there "
                                   "is no fade."),
        ]),
        io.DynamicCombo.Option("steps", [
            io.Float.Input("full", default=0.9, min=0.0, max=1.0, step=0.05, tooltip=FULL_TIP),
            io.Float.Input("fade", default=0.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Fraction of the sampling steps over which the strength then falls to zero."),
        ]),
        io.DynamicCombo.Option("on, then off", [
            io.Float.Input("share", default=1.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Fraction of the sampling steps in which interactions are read."),
        ]),
    ]


def read_schedule(schedule: dict) -> ScheduleBySteps | ScheduleByTimestep:
    if schedule["schedule"] == "timestep":
        return ScheduleByTimestep(schedule["full"], schedule["fade_until"])
    if schedule["schedule"] == "on, then off":
        return ScheduleBySteps(schedule["share"])
    if schedule["full"] + schedule["fade"] > 1 + 1e-6:
        raise ValueError(f"schedule: full {schedule['full']:g} and fade {schedule['fade']:g} exceed all steps: lower "
                         "one until their sum is at most 1")
    return ScheduleBySteps(schedule["full"], schedule["fade"])


class ApplyInteractDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyInteractDiffusion",
            display_name="Apply InteractDiffusion",
            category=menu.INTERACT_DIFFUSION,
            description="Makes a Stable Diffusion 1.x model follow interactions: subject, action and object, each in "
                        "its box. The negative prompt reads no interactions. LoRAs, ControlNets and other patches may "
                        "come before or after this node.",
            search_aliases=["InteractDiffusion", "HOI", "interaction control", "scheduled sampling"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x model; fine-tuned models and LoRAs work too."),
                InteractionWeights.Input("weights", tooltip="Weights from 'Load InteractDiffusion'."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="Strength of the interactions: 1 as in training, 0 for none."),
                io.DynamicCombo.Input("schedule", options=schedule_options(),
                                      tooltip="Steps in which interactions are read. 'timestep' follows the noise "
                                              "level, as in the web UI extension. 'steps' and 'on, then off' count "
                                              "steps, as in the authors' command line and diffusers pipeline."),
                io.Clip.Input("clip", optional=True, tooltip="CLIP of the model, to encode the phrases. Needed if "
                                                             "interactions are connected here."),
                Interactions.Input("interactions", optional=True,
                                   tooltip="Interactions for every positive prompt without interactions from 'Set "
                                           "Interactions'."),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Fraction of the schedule at which the model begins to read interactions. 0: "
                                       "pure noise."),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Fraction of the schedule at which the model stops reading interactions. 1: "
                                       "finished image."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Model that follows the interactions.")],
        )

    @classmethod
    def execute(cls, model, weights, strength, schedule, clip=None, interactions=None, start=0.0,
                end=1.0) -> io.NodeOutput:
        if start >= end:
            raise ValueError(f"start: {start:g} is not before end {end:g}, so nothing would be read: raise 'end'")
        encoded = None if interactions is None else encode_interactions(clip, interactions)
        reading = Reading(strength, read_schedule(schedule), start, end)
        return io.NodeOutput(apply_interactions(model, weights, encoded, reading))


class SetInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_SetInteractions",
            display_name="Set Interactions",
            category=menu.INTERACT_DIFFUSION,
            description="Gives one conditioning its own interactions, so that regional prompts can have different "
                        "interactions. Boxes stay fractions of the whole image.",
            search_aliases=["regional interactions", "InteractDiffusion conditioning", "HOI"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Prompt that gets the interactions."),
                io.Clip.Input("clip", tooltip="CLIP of the model, to encode the phrases."),
                Interactions.Input("interactions", tooltip="Interactions that this prompt reads instead of the "
                                                           "interactions of 'Apply InteractDiffusion'."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning",
                                       tooltip="Prompt with its interactions, for a model from 'Apply "
                                               "InteractDiffusion'."),
            ],
        )

    @classmethod
    def execute(cls, conditioning, clip, interactions) -> io.NodeOutput:
        check_conditioning(conditioning, "conditioning")
        encoded = encode_interactions(clip, interactions)
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, {KEY: encoded}))


class PreviewInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PreviewInteractions",
            display_name="Preview Interactions",
            category=menu.INTERACT_DIFFUSION,
            description="Draws the layout with its phrases. The subject's box is solid, the object's box dashed, the "
                        "action's box filled. An arrow points from subject to object.",
            search_aliases=["draw boxes", "layout", "InteractDiffusion preview", "HOI"],
            is_output_node=True,
            inputs=[
                Interactions.Input("interactions", tooltip="Interactions to draw."),
                io.Image.Input("image", optional=True, tooltip="Image to draw on, in any size. Unconnected: an empty "
                                                               "image."),
                io.Int.Input("width", default=512, min=16, max=16384, optional=True,
                             tooltip="Width of the empty image."),
                io.Int.Input("height", default=512, min=16, max=16384, optional=True,
                             tooltip="Height of the empty image."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="Image with the layout drawn over it.")],
        )

    @classmethod
    def execute(cls, interactions, image=None, width=512, height=512) -> io.NodeOutput:
        images = torch.full((1, height, width, 3), 0.15) if image is None else image[..., :3]
        drawn = draw_layout(images, interactions)
        preview = ui.PreviewImage(drawn, cls=cls).as_dict()
        missing = find_missing(phrase for interaction in interactions for phrase in interaction[:3])
        if missing:
            report = (f"interactions: no font of this machine has the letters {' '.join(missing)}, so the image shows "
                      "squares instead. The model reads the phrases as they are.")
            logging.info(report)
            preview |= {"text": (report,)}
        return io.NodeOutput(drawn, ui=preview)


NODES = (LoadInteractDiffusion, DrawInteractions, AddInteraction, InteractionsFromText, ApplyInteractDiffusion,
         SetInteractions, PreviewInteractions)
