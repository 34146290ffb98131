"""Masks and text as conditions."""
from __future__ import annotations

import math

import torch

import node_helpers
from comfy_api.latest import io

from ..mdit.labelmap import (
    CLASSES, DEFAULT_ORDER, DEFAULT_PALETTE, DISPLAY_NAMES, find_classes, measure_classes, to_indices)
from ..mdit.mditface.adapter.reader import mask_key
from ..mdit.mditface.mask import CONDITIONING_KEY, REDUCTIONS, ExemplarInput, MaskInput, MaskReference
from .labelmap import palette_inputs
from .types import MDiTAdapter, MDiTMask


def attach(conditioning, mask: MaskInput, strength: float, start: float = 0.0, end: float = 1.0, adapter=None):
    if start >= end:
        raise ValueError(f"start: {start:g} is not before end {end:g}: the mask would never be read; raise 'end'")
    key = CONDITIONING_KEY if adapter is None else mask_key(adapter)
    return node_helpers.conditioning_set_values(conditioning, {key: MaskReference(mask, strength, start, end)})


def exemplar_of(pictures, label_map, palette: str, order: str, vae) -> ExemplarInput:
    """Raises ValueError where the label map cannot be that of the pictures."""
    labels = to_indices(label_map, palette, order)
    (height, width), (h, w) = pictures.shape[1:3], labels.shape[1:]
    if len(labels) != len(pictures):
        raise ValueError(f"label_map: {len(labels)} label maps for {len(pictures)} pictures at 'exemplar': give each "
                         "picture its own")
    if not math.isclose(height / width, h / w, rel_tol=ASPECT):
        raise ValueError(f"label_map: it is {w} x {h} pixels, the exemplar {width} x {height}: connect the label map "
                         "of the same picture, such as Parse Face makes it")
    if not labels.flatten(1).any(1).all():
        raise ValueError("label_map: it shows background and no face: connect the label map of the exemplar, such as "
                         "Parse Face makes it")
    return ExemplarInput(pictures[..., :3], labels, vae)


def attach_exemplar(conditioning, exemplar: ExemplarInput, strength: float):
    """The conditioning with the exemplar on each of its masks that is for all readers."""
    def with_exemplar(options: dict) -> dict:
        reference = options.get(CONDITIONING_KEY)
        return options if reference is None else {
            **options, CONDITIONING_KEY: reference.with_exemplar(exemplar, strength)}

    if not any(CONDITIONING_KEY in options for _, options in conditioning):
        raise ValueError("conditioning: it has no mask to place the exemplar by: connect the output of 'Apply MDiT "
                         "Mask' or 'Encode Text and MDiT Mask', made without an adapter")
    return [[text, with_exemplar(options)] for text, options in conditioning]


def describe(mask: MaskInput) -> str:
    """One line on size and reduction, one on the shares of the classes."""
    batch, height, width = mask.labels.shape
    parts = [f"{DISPLAY_NAMES[k]} {share:.1%}" + ("" if mask.visible[k] else " (hidden)")
             for k, share in measure_classes(mask.labels)]
    return f"{batch} label map(s) of {width} x {height}, token reduction {mask.reduction}\n{', '.join(parts)}"


ASPECT = 0.02  # how far the sides of a label map may be from those of its picture
STRENGTH = dict(default=1.0, min=0.0, max=10.0, step=0.05)
STRENGTH_TIP = "How strongly image and text read the mask. 1 as trained, 0 not at all, above 1 more than trained."


class MaskTokenizer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_MaskTokenizer",
            display_name="Encode Label Map as MDiT Mask",
            category="MDiTFace",
            description="Reads a face label map (a picture with one colour a class) and prepares it as a mask for MDiT "
                        "models. The mask's own computation happens once per model and size and is kept with this "
                        "output: other seeds, prompts and guidance values reuse it.",
            search_aliases=["semantic mask", "segmentation map", "face parsing", "mask tokens"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map; colours are snapped to the nearest palette entry."),
                *palette_inputs(),
                io.Vae.Input("vae", optional=True, tooltip="The model's VAE. Only models that read the mask as an "
                                                           "encoded picture need it; the bundled model does not."),
                io.String.Input("hidden_classes", default="", optional=True, advanced=True,
                                tooltip="Classes that the model shall not see, such as 'hair, hat'; it then fills "
                                        "these places freely. Empty: it sees all."),
                io.Combo.Input("token_reduction", options=list(REDUCTIONS), default="merge", optional=True,
                               advanced=True,
                               tooltip="off: exact. merge: keys of flat regions become one each, close to exact and "
                                       "faster to read. half: a mask of half the resolution, a quarter of the tokens, "
                                       "for models trained so."),
            ],
            outputs=[
                MDiTMask.Output(display_name="mask", tooltip="The mask for the text or mask conditioning nodes."),
                io.String.Output(display_name="report", tooltip="Size of the map and share of each class."),
            ],
        )

    @classmethod
    def execute(cls, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, vae=None, hidden_classes="",
                token_reduction="merge") -> io.NodeOutput:
        visible = torch.ones(len(CLASSES))
        if hidden_classes.strip():
            visible[find_classes(hidden_classes, "hidden_classes")] = 0
        mask = MaskInput(to_indices(label_map, palette, order), visible, token_reduction, vae)
        return io.NodeOutput(mask, describe(mask))


class TextConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_TextConditioning",
            display_name="Encode Text and MDiT Mask",
            category="MDiTFace",
            description="Encodes a prompt and, if one is connected, attaches a mask. An empty text with a mask "
                        "generates from the mask alone; a text without a mask from the text alone.",
            search_aliases=["prompt", "clip text encode", "mask prompt"],
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder, from Load MDiT Model."),
                io.String.Input("text", multiline=True, dynamic_prompts=True,
                                tooltip="What the face should look like. The bundled model knows short phrases: "
                                        "'young woman, blond hair, red shirt, blue background, light skin'."),
                MDiTMask.Input("mask", optional=True, tooltip="Mask from Encode Label Map as MDiT Mask."),
                io.Float.Input("mask_strength", optional=True, tooltip=STRENGTH_TIP, **STRENGTH),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Text, with the mask if connected.")],
        )

    @classmethod
    def execute(cls, clip, text, mask=None, mask_strength=1.0) -> io.NodeOutput:
        if clip is None:
            raise ValueError("clip: the loaded file holds no text encoder: connect another CLIP")
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return io.NodeOutput(conditioning if mask is None else attach(conditioning, mask, mask_strength))


class ApplyMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyMask",
            display_name="Apply MDiT Mask",
            category="MDiTFace",
            description="Attaches a mask to a conditioning from any text encoder, for all or part of the schedule.",
            search_aliases=["mask conditioning", "face mask", "semantic control"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The text to generate from."),
                MDiTMask.Input("mask", tooltip="Mask from Encode Label Map as MDiT Mask."),
                io.Float.Input("strength", tooltip=STRENGTH_TIP, **STRENGTH),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.001, advanced=True,
                               tooltip="Part of the schedule where the mask begins to be read; 0 is pure noise."),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.001, advanced=True,
                               tooltip="Part of the schedule after which the mask is read no more; 1 is the picture."),
                MDiTAdapter.Input("adapter", optional=True,
                                  tooltip="The adapter that reads this mask, where a model has several. Unconnected: "
                                          "every one that has no mask of its own."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The same text with the mask.")],
        )

    @classmethod
    def execute(cls, conditioning, mask, strength=1.0, start=0.0, end=1.0, adapter=None) -> io.NodeOutput:
        return io.NodeOutput(attach(conditioning, mask, strength, start, end, adapter))


class ApplyExemplar(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyExemplar",
            display_name="Apply MDiT Exemplar",
            category="MDiTFace",
            is_experimental=True,
            description="Gives the masks of a conditioning an exemplar: a face whose colours and texture the generated "
                        "one takes over, each part from the part that the exemplar's own label map shows. Needs a "
                        "model trained with an exemplar branch; the bundled model has none.",
            search_aliases=["exemplar", "reference face", "style reference", "DynaST", "colour transfer"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Text with a mask: the exemplar is placed by it, and "
                                                              "read where and when the mask is."),
                io.Image.Input("exemplar", tooltip="The face to look like: one picture, or one for each latent. It is "
                                                   "stretched to the size of the generated picture."),
                io.Image.Input("label_map", tooltip="The label map of the exemplar, not of the target; Parse Face "
                                                    "makes one."),
                io.Vae.Input("vae", tooltip="The model's VAE, which encodes the exemplar."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="How strongly the exemplar is read. 1 as trained, 0 not at all."),
                *palette_inputs(),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="The same, with the exemplar.")],
        )

    @classmethod
    def execute(cls, conditioning, exemplar, label_map, vae, strength=1.0, palette=DEFAULT_PALETTE,
                order=DEFAULT_ORDER) -> io.NodeOutput:
        made = exemplar_of(exemplar, label_map, palette, order, vae)
        return io.NodeOutput(attach_exemplar(conditioning, made, strength))


NODES = (MaskTokenizer, TextConditioning, ApplyMask, ApplyExemplar)
