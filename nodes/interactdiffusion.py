"""InteractDiffusion: who does what to whom, on Stable Diffusion 1.x models."""
from __future__ import annotations

from pathlib import Path

import torch

import comfy.sd
import folder_paths
import node_helpers
from comfy_api.latest import io, ui

from ..mdit.interactdiffusion.draw import draw
from ..mdit.interactdiffusion.encode import encode
from ..mdit.interactdiffusion.interactions import Box, Interaction, checked_box, host_boxes
from ..mdit.interactdiffusion.patch import KEY, Reading, apply_interactions
from ..mdit.interactdiffusion.schedule import BySteps, ByTimestep
from ..mdit.interactdiffusion.text import numbers, parse
from ..mdit.interactdiffusion.weights import load_weights
from .editors import background_input, show_background
from .files import add_folder, find_file, list_files
from .types import Interactions, InteractionWeights

CATEGORY = "MDiTFace/interaction"
FOLDERS = ("interactdiffusion", "gligen")
ENDINGS = (".safetensors", ".pth", ".pt")
UNITS = ("fractions", "pixels")
BOX_TIP = ("Left, top, right and bottom. Or connect one box of the host's BOUNDING_BOX, which counts in pixels of "
           "width and height.")
FIRST_LAYOUT = """[{"subject":"person","action":"feeding","object":"cat",\
"subject_box":[0.0332,0.166,0.3359,0.7305],"object_box":[0.2891,0.4766,0.668,0.793]}]"""

add_folder(FOLDERS[0], Path(folder_paths.models_dir, FOLDERS[0]), endings=ENDINGS)


def size_inputs() -> list[io.Input]:
    return [
        io.Combo.Input("units", options=list(UNITS), default=UNITS[0], optional=True, advanced=True,
                       tooltip="What written boxes count in: fractions of the picture, 0 to 1, or pixels of width and "
                               "height."),
        io.Int.Input("width", default=512, min=1, max=16384, optional=True, advanced=True,
                     tooltip="Width of the picture that boxes in pixels lie on; the generated one may be larger."),
        io.Int.Input("height", default=512, min=1, max=16384, optional=True, advanced=True,
                     tooltip="Height of the picture that boxes in pixels lie on."),
    ]


def previous_input() -> io.Input:
    return Interactions.Input("previous", optional=True, tooltip="Interactions to which these are added.")


def interactions_output() -> io.Output:
    return Interactions.Output(display_name="interactions", tooltip="For Apply InteractDiffusion, Set Interactions and "
                                                                    "Preview Interactions.")


def read_box(value, source: str, units: str, size: tuple[int, int]) -> Box:
    """A box from its text, or from a connected BOUNDING_BOX of one box."""
    if isinstance(value, str):
        return checked_box(numbers(value, f"{source}:"), size if units == "pixels" else (1, 1), source)
    boxes = host_boxes(value, size, source)
    if len(boxes) != 1:
        raise ValueError(f"{source}: {len(boxes)} boxes are connected, one is needed: connect several to 'Read "
                         "Interactions from Text', which takes subject and object in turn")
    return boxes[0]


class LoadInteractDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadInteractDiffusion",
            display_name="Load InteractDiffusion",
            category=CATEGORY,
            description="Loads InteractDiffusion weights for Stable Diffusion 1.x: the plug-in file, a complete "
                        "checkpoint of the authors, or the UNet of their diffusers version. Which it is shows in the "
                        "file.",
            search_aliases=["InteractDiffusion loader", "HOI", "human object interaction", "GLIGEN"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(*FOLDERS, endings=ENDINGS),
                               tooltip="A file from models/interactdiffusion or models/gligen."),
            ],
            outputs=[
                InteractionWeights.Output(display_name="weights", tooltip="For Apply InteractDiffusion."),
                io.Model.Output(display_name="model", tooltip="The file's own Stable Diffusion 1.x model, without "
                                                              "interactions; empty for a plug-in file."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder; only of a complete checkpoint."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE; only of a complete checkpoint."),
            ],
        )

    @classmethod
    def execute(cls, weights_name) -> io.NodeOutput:
        weights, base = load_weights(find_file(weights_name, "weights_name", *FOLDERS))
        if not base:
            return io.NodeOutput(weights, None, None, None)
        if any(key.startswith("first_stage_model.") for key in base):
            model, clip, vae, _ = comfy.sd.load_state_dict_guess_config(
                base, embedding_directory=folder_paths.get_folder_paths("embeddings"))
            return io.NodeOutput(weights, model, clip, vae)
        return io.NodeOutput(weights, comfy.sd.load_diffusion_model_state_dict(base), None, None)


class AddInteraction(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_Interaction",
            display_name="Add Interaction",
            category=CATEGORY,
            description="One interaction: a subject does an action to an object, each in its box. The action's own box "
                        "follows from the two. Chain several of these nodes.",
            search_aliases=["HOI", "triplet", "subject action object", "box", "InteractDiffusion"],
            inputs=[
                io.String.Input("subject", default="person", tooltip="Who: one phrase, such as 'person' or 'old man'."),
                io.String.Input("action", default="feeding", tooltip="Does what: a phrase such as 'feeding'."),
                io.String.Input("object", default="cat", tooltip="To whom or what: one phrase."),
                io.MultiType.Input(io.String.Input("subject_box", default="0.03, 0.17, 0.34, 0.73", tooltip=BOX_TIP),
                                   [io.BoundingBox]),
                io.MultiType.Input(io.String.Input("object_box", default="0.29, 0.48, 0.67, 0.79", tooltip=BOX_TIP),
                                   [io.BoundingBox]),
                previous_input(),
                *size_inputs(),
            ],
            outputs=[interactions_output()],
        )

    @classmethod
    def execute(cls, subject, action, object, subject_box, object_box, previous=(), units=UNITS[0], width=512,
                height=512) -> io.NodeOutput:
        boxes = (read_box(value, source, units, (width, height))
                 for value, source in ((subject_box, "subject_box"), (object_box, "object_box")))
        return io.NodeOutput((*previous, Interaction(subject.strip(), action.strip(), object.strip(), *boxes)))


class InteractionsFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_InteractionsFromText",
            display_name="Read Interactions from Text",
            category=CATEGORY,
            description="Interactions as text: 'person [0.1, 0.2, 0.4, 0.9] = feeding = cat [0.3, 0.5, 0.7, 0.8]', one "
                        "a line or with semicolons between them, or JSON. Without boxes in the text, boxes drawn "
                        "elsewhere are taken in turn.",
            search_aliases=["HOI", "triplets", "subject=action=object", "boxes", "JSON", "InteractDiffusion"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=False,
                    default="person [0.03, 0.17, 0.34, 0.73] = feeding = cat [0.29, 0.48, 0.67, 0.79]",
                    tooltip="subject [box] = action = object [box]. A box is left, top, right and bottom."),
                io.BoundingBox.Input("boxes", optional=True, force_input=True,
                                     tooltip="Boxes in pixels for interactions written without: the first subject's, "
                                             "the first object's, the second subject's, and so on."),
                previous_input(),
                *size_inputs(),
            ],
            outputs=[interactions_output()],
        )

    @classmethod
    def execute(cls, text, boxes=None, previous=(), units=UNITS[0], width=512, height=512) -> io.NodeOutput:
        size = (width, height)
        found = parse(text, size if units == "pixels" else (1, 1), host_boxes(boxes, size, "boxes"))
        return io.NodeOutput((*previous, *found))


class DrawInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_DrawInteractions",
            display_name="Draw Interactions",
            category=CATEGORY,
            description="Draw who does what to whom: the subject's box, then the object's, then the words. Move, "
                        "resize, rename and reorder them. The layout is saved with the graph.",
            search_aliases=["box editor", "bounding boxes", "HOI", "layout", "regions", "InteractDiffusion"],
            inputs=[
                io.Int.Input("width", default=512, min=16, max=16384, step=8,
                             tooltip="Width of the picture to draw on. Boxes keep their share of it."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height of that picture."),
                io.String.Input(
                    "text", default=FIRST_LAYOUT, socketless=True, dynamic_prompts=False,
                    extra_dict={"widgetType": "MDIT_LAYOUT"},
                    tooltip="The interactions as text, as Read Interactions from Text takes them, with boxes in "
                            "fractions of the picture. The editor writes it."),
                background_input("The interactions do not contain the image."),
                previous_input(),
            ],
            outputs=[
                interactions_output(),
                io.Int.Output(display_name="width", tooltip="Width of the picture, for an empty latent."),
                io.Int.Output(display_name="height", tooltip="Height of the picture."),
            ],
        )

    @classmethod
    def validate_inputs(cls, text: str | None) -> bool | str:
        try:
            if text is not None:  # None: it comes from another node and is read in execute
                parse(text)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, width, height, text, background=None, previous=()) -> io.NodeOutput:
        return io.NodeOutput((*previous, *parse(text)), width, height,
                             ui={"size": [width, height], **show_background(background)})


def schedule_options() -> list[io.DynamicCombo.Option]:
    return [
        io.DynamicCombo.Option("timestep", [
            io.Float.Input("full", default=0.8, min=0.0, max=1.0, step=0.05,
                           tooltip="Share of the noise levels, from pure noise on, at full strength. With a LoRA 0.3 "
                                   "is advised."),
            io.Float.Input("fade_until", default=0.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Share at which a linear fade after that has reached nothing; not above 'full': a "
                                   "hard end."),
        ]),
        io.DynamicCombo.Option("steps", [
            io.Float.Input("full", default=0.9, min=0.0, max=1.0, step=0.05,
                           tooltip="Share of the sampling steps at full strength."),
            io.Float.Input("fade", default=0.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Share of the steps after that over which the strength falls to nothing."),
        ]),
        io.DynamicCombo.Option("on, then off", [
            io.Float.Input("share", default=1.0, min=0.0, max=1.0, step=0.05,
                           tooltip="Share of the sampling steps that are on."),
        ]),
    ]


def read_schedule(schedule: dict) -> BySteps | ByTimestep:
    if schedule["schedule"] == "timestep":
        return ByTimestep(schedule["full"], schedule["fade_until"])
    if schedule["schedule"] == "on, then off":
        return BySteps(schedule["share"])
    if schedule["full"] + schedule["fade"] > 1 + 1e-6:
        raise ValueError(f"schedule: full {schedule['full']:g} and fade {schedule['fade']:g} are more than all steps: "
                         "lower one until their sum is at most 1")
    return BySteps(schedule["full"], schedule["fade"])


class ApplyInteractDiffusion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyInteractDiffusion",
            display_name="Apply InteractDiffusion",
            category=CATEGORY,
            description="Lets a Stable Diffusion 1.x model read interactions: who does what to whom, and where. The "
                        "negative prompt reads none. LoRAs, ControlNets and other patches go before or after this "
                        "node.",
            search_aliases=["InteractDiffusion", "HOI", "interaction control", "scheduled sampling"],
            inputs=[
                io.Model.Input("model", tooltip="Any Stable Diffusion 1.x model, fine-tuned ones and LoRAs included."),
                InteractionWeights.Input("weights", tooltip="From Load InteractDiffusion."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="How strongly interactions are read. 1 as trained, 0 not at all."),
                io.DynamicCombo.Input("schedule", options=schedule_options(),
                                      tooltip="When in the run interactions are read. timestep: by the noise level, as "
                                              "in the web UI extension. steps and on, then off: by the count of steps, "
                                              "as in the authors' command line and their diffusers pipeline."),
                io.Clip.Input("clip", optional=True, tooltip="The model's CLIP, for the phrases. Not needed without "
                                                             "interactions here."),
                Interactions.Input("interactions", optional=True,
                                   tooltip="What every prompt reads that has no interactions of its own from Set "
                                           "Interactions."),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Part of the schedule before which nothing is read; 0 is pure noise."),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.001, optional=True, advanced=True,
                               tooltip="Part of the schedule after which nothing is read; 1 is the picture."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model, reading interactions.")],
        )

    @classmethod
    def execute(cls, model, weights, strength, schedule, clip=None, interactions=None, start=0.0,
                end=1.0) -> io.NodeOutput:
        if start >= end:
            raise ValueError(f"start: {start:g} is not before end {end:g}: nothing would ever be read; raise 'end'")
        encoded = None if interactions is None else encode(clip, interactions)
        reading = Reading(strength, read_schedule(schedule), start, end)
        return io.NodeOutput(apply_interactions(model, weights, encoded, reading))


class SetInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_SetInteractions",
            display_name="Set Interactions",
            category=CATEGORY,
            description="Gives one conditioning its own interactions, so that regional prompts do not share theirs. "
                        "Boxes stay fractions of the whole picture.",
            search_aliases=["regional interactions", "InteractDiffusion conditioning", "HOI"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt."),
                io.Clip.Input("clip", tooltip="The model's CLIP, for the phrases."),
                Interactions.Input("interactions", tooltip="What this prompt reads in place of the model's."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning",
                                       tooltip="The prompt with its interactions, for a model from Apply "
                                               "InteractDiffusion."),
            ],
        )

    @classmethod
    def execute(cls, conditioning, clip, interactions) -> io.NodeOutput:
        encoded = encode(clip, interactions)
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, {KEY: encoded}))


class PreviewInteractions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PreviewInteractions",
            display_name="Preview Interactions",
            category=CATEGORY,
            description="Draws the layout: each subject's box, its object's dashed, the action's filled, with labels "
                        "and an arrow from subject to object.",
            search_aliases=["draw boxes", "layout", "InteractDiffusion preview", "HOI"],
            is_output_node=True,
            inputs=[
                Interactions.Input("interactions", tooltip="What to draw."),
                io.Image.Input("image", optional=True, tooltip="Drawn upon, any size. Unconnected: an empty picture."),
                io.Int.Input("width", default=512, min=16, max=16384, optional=True,
                             tooltip="Width of the empty picture."),
                io.Int.Input("height", default=512, min=16, max=16384, optional=True,
                             tooltip="Height of the empty picture."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The picture with the layout over it.")],
        )

    @classmethod
    def execute(cls, interactions, image=None, width=512, height=512) -> io.NodeOutput:
        pictures = torch.full((1, height, width, 3), 0.15) if image is None else image[..., :3]
        drawn = draw(pictures, interactions)
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


NODES = (LoadInteractDiffusion, DrawInteractions, AddInteraction, InteractionsFromText, ApplyInteractDiffusion,
         SetInteractions, PreviewInteractions)
