"""MMFace-DiT: faces from a label map or sketch and a text."""
from __future__ import annotations

import node_helpers
from comfy_api.latest import io

from ..mdit.mmface import host
from ..mdit.mmface.condition import (
    OWN_KEY, SKETCH, ConditionPicture, ConditionReference, draw_sketch, make_picture)
from ..mdit.mmface.config import AUTO, OBJECTIVES, TIMES
from ..mdit.mmface.text import SOURCE as CLIP_SOURCE
from ..mdit.mmface.text import load_clip
from ..mdit.shared.conds import check_conditioning
from . import menu
from .files import check_file, find_file, list_files
from .loading import DTYPES
from .types import MDiTMask

MODELS = "diffusion_models"
CLIPS = ("text_encoders", "checkpoints")
CONDITION = "Condition MMFace-DiT"


class LoadMMFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadMMFace",
            display_name="Load MMFace-DiT Model",
            category=menu.PHOTO_MODELS,
            description="Loads the transformer of MMFace-DiT, which draws a face from a label map or a sketch and a "
                        "prompt. Three files are published, for 256 and 512 px, all with the same name.",
            search_aliases=["MMFace-DiT loader", "mask to face", "sketch to face", "face photograph"],
            inputs=[
                io.Combo.Input("model_name", options=list_files(MODELS),
                               tooltip="File from models/diffusion_models, such as dit_model_weights_ema.safetensors."),
                io.Combo.Input("objective", options=[AUTO, *OBJECTIVES], default=AUTO,
                               tooltip="What the model predicts, which the file does not say. flow: the files of the "
                                       "two folders ending with -rfm. diffusion: that of the third folder. auto: as "
                                       "the folder or the name of the file says."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Data type of the weights. default: ComfyUI chooses. Weights in fp16 are cast "
                                       "to another type for the computation."),
                io.Combo.Input("time", options=list(TIMES), default=TIMES[0], optional=True, advanced=True,
                               tooltip="Precision of the time that a flow model reads. as trained: rounded to "
                                       "bfloat16. exact: not rounded."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Diffusion model, which reads text and a mask or "
                                                                   "sketch.")],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return check_file(model_name, "model_name", MODELS)

    @classmethod
    def execute(cls, model_name, objective=AUTO, weight_dtype="default", time=TIMES[0]) -> io.NodeOutput:
        path = find_file(model_name, host.SOURCE, MODELS)
        return io.NodeOutput(host.load_mmface(path, DTYPES[weight_dtype], objective, time, model_name))


class LoadMMFaceCLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadMMFaceCLIP",
            display_name="Load MMFace-DiT CLIP",
            category=menu.PHOTO_MODELS,
            description="Loads the text encoder of Stable Diffusion 2.x as MMFace-DiT reads it. Do not use 'Load "
                        "CLIP': its layer, norm and pooled text differ, which gives wrong faces without an error.",
            search_aliases=["MMFace-DiT text encoder", "SD 2.1 CLIP", "OpenCLIP ViT-H"],
            inputs=[
                io.Combo.Input("clip_name", options=list_files(*CLIPS),
                               tooltip="text_encoder/model.safetensors of Stable Diffusion 2.1 from "
                                       "models/text_encoders, or a checkpoint of Stable Diffusion 2.x."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", optional=True, advanced=True,
                               tooltip="Data type of the weights. default: ComfyUI chooses, usually fp16."),
            ],
            outputs=[io.Clip.Output(display_name="clip", tooltip="Text encoder for 'CLIP Text Encode (Prompt)'. "
                                                                 "Prompts are cut to 77 tokens.")],
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None) -> bool | str:
        return check_file(clip_name, "clip_name", *CLIPS)

    @classmethod
    def execute(cls, clip_name, weight_dtype="default") -> io.NodeOutput:
        return io.NodeOutput(load_clip(find_file(clip_name, CLIP_SOURCE, *CLIPS), DTYPES[weight_dtype]))


class ConditionMMFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def prompt(name: str, meaning: str) -> io.Input:
            return io.Conditioning.Input(name, tooltip=f"Text {meaning}, from 'CLIP Text Encode (Prompt)' with the "
                                                       "CLIP of 'Load MMFace-DiT CLIP'.")

        def fraction(name: str, default: float, tooltip: str) -> io.Input:
            return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, optional=True, advanced=True,
                                  tooltip=tooltip)
        return io.Schema(
            node_id="MDiT_ConditionMMFace",
            display_name=CONDITION,
            category=menu.PHOTO_MODELS,
            description="Attaches a mask or a sketch to both prompts, as MMFace-DiT reads them. With neither the image "
                        "follows the text alone. The model reads the picture at every step and stores nothing.",
            search_aliases=["MMFace-DiT mask", "MMFace-DiT sketch", "sketch to face"],
            inputs=[
                prompt("positive", "that the image follows"),
                prompt("negative", "that the image avoids; an empty one is fine"),
                io.Vae.Input("vae", tooltip="FLUX's VAE (ae.safetensors), which encodes the mask or sketch."),
                MDiTMask.Input("mask", optional=True, tooltip="Mask from 'Label Map to Mask (MDiT)': one label "
                                                              "map, or one for each latent. Connect a mask or a "
                                                              "sketch, not both."),
                io.Image.Input("sketch", optional=True, tooltip="Sketch of a face with dark strokes on white: one "
                                                                "image, or one for each latent."),
                fraction("start", 0.0, "Fraction of the schedule at which the picture starts to act."),
                fraction("end", 1.0, "Fraction of the schedule at which the picture stops to act."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Positive prompt with the picture."),
                io.Conditioning.Output(display_name="negative", tooltip="Negative prompt with the picture."),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, vae, mask=None, sketch=None, start=0.0, end=1.0) -> io.NodeOutput:
        check_conditioning(positive, "positive")
        check_conditioning(negative, "negative")
        if mask is not None and sketch is not None:
            raise ValueError("mask, sketch: both are connected, but the model reads one of them: disconnect the other")
        if start >= end:
            raise ValueError(f"start: {start:g} is not below end {end:g}, so no step would read the picture: raise "
                             "'end'")
        if mask is None and sketch is None:
            return io.NodeOutput(positive, negative)
        if mask is None:
            picture = ConditionPicture(draw_sketch(sketch), SKETCH, vae, CONDITION)
        else:
            picture = make_picture(mask, vae, CONDITION)
        reference = ConditionReference(picture, start, end)
        both = (node_helpers.conditioning_set_values(texts, {OWN_KEY: reference}) for texts in (positive, negative))
        return io.NodeOutput(*both)


NODES = (LoadMMFace, LoadMMFaceCLIP, ConditionMMFace)
