"""Nodes that attach text, masks and exemplars to a conditioning."""
from __future__ import annotations

import math

import torch

import node_helpers
from comfy_api.latest import io

from ..mdit.labelmap import (
    CLASSES, DEFAULT_ORDER, DEFAULT_PALETTE, DISPLAY_NAMES, find_classes, measure_classes, read_label_maps)
from ..mdit.mditface.adapter.reader import make_mask_key
from ..mdit.mditface.mask import ExemplarInput, MaskInput, MaskReference, MaskSource
from ..mdit.mditface.pictures import PictureInput
from ..mdit.mditface.placements import ON_IMAGE, PLACEMENTS, describe_placements
from ..mdit.mditface.reductions import REDUCTIONS, describe_reductions
from ..mdit.mditface.text import WordTokenizer
from ..mdit.shared.conds import check_conditioning
from ..mdit.shared.masks import CONDITIONING_KEY
from . import menu
from .labelmap import palette_inputs, read_and_tell
from .types import MDiTAdapter, MDiTMask


def attach_mask(conditioning, mask: MaskSource, strength: float, start: float = 0.0, end: float = 1.0, adapter=None):
    if start >= end:
        raise ValueError(f"start: {start:g} is not below end {end:g}, so no step would read the mask: raise 'end'")
    check_conditioning(conditioning, "conditioning")
    key = CONDITIONING_KEY if adapter is None else make_mask_key(adapter)
    return node_helpers.conditioning_set_values(conditioning, {key: MaskReference(mask, strength, start, end)})


def make_exemplar(images, label_map, palette: str, order: str, vae) -> ExemplarInput:
    """Raises ValueError if the label map cannot belong to the images (B, H, W, C)."""
    labels = read_and_tell(label_map, palette, order)  # (B, h, w)
    height, width = images.shape[1:3]
    h, w = labels.shape[1:]
    if len(labels) != len(images):
        raise ValueError(f"label_map: {len(labels)} label maps for {len(images)} images at 'exemplar': connect one "
                         "label map for each image")
    if not math.isclose(height / width, h / w, rel_tol=ASPECT_TOLERANCE):
        raise ValueError(f"label_map: {w} x {h} pixels have another aspect ratio than the exemplar's {width} x "
                         f"{height}: connect the label map of the same image, for example from 'Parse Face'")
    if not labels.flatten(1).any(1).all():
        raise ValueError("label_map: it contains only background: connect the label map of the exemplar, for example "
                         "from 'Parse Face'")
    return ExemplarInput(images[..., :3], labels, vae)


def attach_exemplar(conditioning, exemplar: ExemplarInput, strength: float):
    """Adds the exemplar to each mask that every reader may read; masks for one adapter stay as they are."""

    def extend(options: dict) -> dict:
        reference = options.get(CONDITIONING_KEY)
        if reference is None:
            return options
        return {**options, CONDITIONING_KEY: reference.with_exemplar(exemplar, strength)}

    if not any(CONDITIONING_KEY in options for _, options in conditioning):
        raise ValueError("conditioning: it has no mask that an exemplar can follow: connect 'Prompt + Mask "
                         "(MDiT)', or 'Apply Mask (MDiT)' without an adapter")
    return [[text, extend(options)] for text, options in conditioning]


def list_words(clip, text: str) -> dict[str, list[str]] | None:
    """For the front end (`web/prompt`): the words of a text that a closed vocabulary lacks, and the vocabulary."""
    tokenizer = clip.tokenizer
    if not isinstance(tokenizer, WordTokenizer):
        return None
    return {"unknown_words": tokenizer.find_unknown_words(text), "known_words": list(tokenizer.config.vocabulary)}


def describe_mask(mask: MaskInput) -> str:
    """Two lines: size and token reduction, then the share of each class."""
    batch, height, width = mask.labels.shape
    classes = [f"{DISPLAY_NAMES[k]} {share:.1%}" + ("" if mask.visible[k] else " (hidden)")
               for k, share in measure_classes(mask.labels)]
    return f"{batch} label map(s) of {width} x {height}, token reduction {mask.reduction}\n{', '.join(classes)}"


ASPECT_TOLERANCE = 0.02  # relative difference between the aspect ratios of an exemplar and its label map
STRENGTH = dict(default=1.0, min=0.0, max=10.0, step=0.05)
STRENGTH_TIP = "Strength with which image and text read the mask. 0: no effect. 1: as trained. Above 1: stronger."


class MaskTokenizer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_MaskTokenizer",
            display_name="Label Map to Mask (MDiT)",
            category=menu.START,
            description="Prepares a face label map (an image with one colour for each class) as a mask for MDiT "
                        "models. A model computes the keys and values of the mask once for each image size. Both are "
                        "stored with this output. Other seeds, prompts and guidance scales reuse the stored values.",
            search_aliases=["encode label map", "semantic mask", "segmentation map", "face parsing", "mask tokens"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map. Each pixel takes the class of the nearest palette "
                                                    "colour."),
                *palette_inputs(),
                io.Vae.Input("vae", optional=True, tooltip="VAE of the model, for models that read the mask as an "
                                                           "encoded image. The bundled model needs no VAE."),
                io.String.Input("hidden_classes", default="", optional=True, advanced=True,
                                tooltip="Classes to hide from the model, such as 'hair, hat'. The model fills hidden "
                                        "areas freely. Empty: no hidden class."),
                io.Combo.Input("token_reduction", options=list(REDUCTIONS), default="merge", optional=True,
                               advanced=True, tooltip=f"Reduction of the mask tokens. {describe_reductions()}"),
            ],
            outputs=[
                MDiTMask.Output(display_name="mask", tooltip="Mask for 'Prompt + Mask (MDiT)' or "
                                                              "'Apply Mask (MDiT)'."),
                io.String.Output(display_name="report", tooltip="Size of the label map, share of each class, and "
                                                                     "the palette that 'auto' found."),
            ],
        )

    @classmethod
    def execute(cls, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, vae=None, hidden_classes="",
                token_reduction="merge") -> io.NodeOutput:
        visible = torch.ones(len(CLASSES))
        if hidden_classes.strip():
            visible[find_classes(hidden_classes, "hidden_classes")] = 0
        indices, notes = read_label_maps(label_map, palette, order)
        mask = MaskInput(indices, visible, token_reduction, vae)
        return io.NodeOutput(mask, "\n".join([describe_mask(mask), *notes]))


class EncodePicture(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_EncodePicture",
            display_name="Picture to Mask (MDiT)",
            category=menu.ADAPTERS,
            description="Prepares any picture as a mask for an adapter that was trained on such pictures: edges, "
                        "depth, a pose, a sketch, a photograph or an object. The keys and values are computed once and "
                        "stored with this output, as those of a label map are.",
            search_aliases=["encode picture", "EasyControl", "canny", "depth", "pose", "hed sketch", "subject"],
            inputs=[
                io.Image.Input("picture", tooltip="Picture in the form that the adapter was trained on, such as the "
                                                  "output of 'Detect Edges (Canny)': one, or one for each latent."),
                io.Vae.Input("vae", tooltip="VAE of the model, which encodes the picture."),
                io.Combo.Input("placement", options=list(PLACEMENTS), default=ON_IMAGE,
                               tooltip=f"Place of the picture, as the adapter was trained. {describe_placements()}"),
            ],
            outputs=[MDiTMask.Output(display_name="mask", tooltip="Mask for 'Apply Mask (MDiT)', on a model with an "
                                                                  "adapter for such pictures.")],
        )

    @classmethod
    def execute(cls, picture, vae, placement=ON_IMAGE) -> io.NodeOutput:
        return io.NodeOutput(PictureInput(picture[..., :3], placement, vae))


class TextConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_TextConditioning",
            display_name="Prompt + Mask (MDiT)",
            category=menu.START,
            description="Encodes a prompt and attaches the connected mask. With an empty text the image follows the "
                        "mask alone. Without a mask the image follows the text alone.",
            search_aliases=["encode text", "clip text encode", "mask prompt", "beard", "hair colour", "describe face"],
            inputs=[
                io.Clip.Input("clip", tooltip="Text encoder from 'Load Face Model (MDiT)'."),
                io.String.Input("text", multiline=True, dynamic_prompts=True,
                                tooltip="Description of the face. The bundled model knows short phrases, such as "
                                        "'young woman, blond hair, red shirt, blue background, light skin'."),
                MDiTMask.Input("mask", optional=True, tooltip="Mask from 'Label Map to Mask (MDiT)'."),
                io.Float.Input("mask_strength", optional=True, tooltip=STRENGTH_TIP, **STRENGTH),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Encoded text with the mask.")],
        )

    @classmethod
    def execute(cls, clip, text, mask=None, mask_strength=1.0) -> io.NodeOutput:
        if clip is None:
            raise ValueError("clip: the model file contains no text encoder: connect another CLIP, such as 'Load CLIP'")
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        masked = conditioning if mask is None else attach_mask(conditioning, mask, mask_strength)
        return io.NodeOutput(masked, ui=list_words(clip, text))


class ApplyMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyMask",
            display_name="Apply Mask (MDiT)",
            category=menu.ADAPTERS,
            description="Attaches a mask to a conditioning from any text encoder, for the whole schedule or a part.",
            search_aliases=["mask conditioning", "face mask", "semantic control"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Conditioning to which the mask is attached."),
                MDiTMask.Input("mask", tooltip="Mask from 'Label Map to Mask (MDiT)' or 'Picture to Mask "
                                               "(MDiT)'."),
                io.Float.Input("strength", tooltip=STRENGTH_TIP, **STRENGTH),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.001, advanced=True,
                               tooltip="Fraction of the schedule at which the model begins to read the mask. 0: pure "
                                       "noise."),
                io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.001, advanced=True,
                               tooltip="Fraction of the schedule at which the model stops reading the mask. 1: "
                                       "finished image."),
                MDiTAdapter.Input("adapter", optional=True,
                                  tooltip="Adapter that reads this mask, for a model with several adapters. "
                                          "Unconnected: each adapter without a mask of its own reads this mask."),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Conditioning with the mask.")],
        )

    @classmethod
    def execute(cls, conditioning, mask, strength=1.0, start=0.0, end=1.0, adapter=None) -> io.NodeOutput:
        return io.NodeOutput(attach_mask(conditioning, mask, strength, start, end, adapter))


class ApplyExemplar(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ApplyExemplar",
            display_name="Apply Exemplar (MDiT)",
            category=menu.ADVANCED,
            is_experimental=True,
            description="Attaches an exemplar to the masks of a conditioning. The generated face takes over colours "
                        "and texture of the exemplar, class by class: hair from hair, skin from skin. Only models "
                        "trained with an exemplar branch read exemplars. The bundled model has no exemplar branch.",
            search_aliases=["exemplar", "reference face", "style reference", "DynaST", "colour transfer"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Conditioning with a mask. The exemplar acts in the "
                                                              "same area and the same steps as the mask."),
                io.Image.Input("exemplar", tooltip="Face whose appearance is taken over: one image, or one for each "
                                                   "latent. The image is stretched to the generated size."),
                io.Image.Input("label_map", tooltip="Label map of the exemplar, not of the generated face, for "
                                                    "example from 'Parse Face'."),
                io.Vae.Input("vae", tooltip="VAE of the model, which encodes the exemplar."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="Strength with which the image reads the exemplar. 0: no effect. 1: as "
                                       "trained."),
                *palette_inputs(),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="Conditioning with the exemplar.")],
        )

    @classmethod
    def execute(cls, conditioning, exemplar, label_map, vae, strength=1.0, palette=DEFAULT_PALETTE,
                order=DEFAULT_ORDER) -> io.NodeOutput:
        encoded = make_exemplar(exemplar, label_map, palette, order, vae)
        return io.NodeOutput(attach_exemplar(conditioning, encoded, strength))


NODES = (MaskTokenizer, EncodePicture, TextConditioning, ApplyMask, ApplyExemplar)
