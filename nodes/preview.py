"""Nodes that show and describe label maps, and show the cache of a mask."""
from __future__ import annotations

import torch

import comfy.model_management
from comfy_api.latest import io, ui

from ..mdit.labelmap import (
    DEFAULT_ORDER, DEFAULT_PALETTE, DISPLAY_NAMES, draw_sheet, measure_classes, overlay, read_label_maps,
    resize_nearest)
from ..mdit.mditface.inspection import list_entries
from ..mdit.parsing import LANGUAGES, describe_map, host, measure_agreement, write_sentence
from . import menu
from .labelmap import palette_inputs
from .parsing import parser_input
from .types import MDiTMask


def match_batches(labels, images, source="picture"):
    """Label maps (B, H, W) and images (B, h, w, 3) -> the same number of both, the label maps resized to the images.

    Raises ValueError, which names the input `source` of the images.
    """
    batch = max(len(labels), len(images))
    if {len(labels), len(images)} - {1, batch} or 0 in images.shape:
        raise ValueError(f"{source}: {len(images)} images for {len(labels)} label maps: connect one image for all "
                         "label maps, or one for each")
    height, width = images.shape[1:3]
    labels = resize_nearest(labels, height, width).expand(batch, -1, -1)
    return labels, images.expand(batch, -1, -1, -1)


def score_images(labels, images, parser) -> list[dict[str, float]]:
    """The agreement (`measure_agreement`) of each image, as the parser sees it, with its label map."""
    parsed, _ = (parser or host.recall_parser()).parse(images)
    return [measure_agreement(found.cpu().numpy(), asked.cpu().numpy()) for found, asked in zip(parsed, labels)]


def describe_agreement(scores: dict[str, float]) -> list[str]:
    return [f"label agreement {scores['pixel_accuracy']:.3f}", f"mean IoU {scores['mean_iou_present']:.3f}"]


class PreviewLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PreviewLabelMap",
            display_name="Preview Label Map",
            category=menu.LABEL_MAPS,
            description="Shows a label map with the name and the share of each class. With an image, the preview also "
                        "shows the image, the label map over the image, and the label agreement. The label agreement "
                        "is the share of pixels in which a face parser finds the class of the label map.",
            search_aliases=["legend", "overlay", "compare", "label agreement", "judge", "view mask"],
            is_output_node=True,
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of label maps."),
                *palette_inputs(),
                io.Image.Input("picture", optional=True,
                               tooltip="Generated face, or the photograph from which the label map was made."),
                io.Float.Input("opacity", default=0.5, min=0.0, max=1.0, step=0.05, optional=True,
                               tooltip="Opacity of the label map over the image."),
                parser_input(),
            ],
            outputs=[
                io.Image.Output(display_name="preview", tooltip="Label map, image, overlay and legend side by side."),
                io.String.Output(display_name="report", tooltip="One line per label map: share of each class and label "
                                                                "agreement."),
            ],
        )

    @classmethod
    def execute(cls, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, picture=None, opacity=0.5,
                parser=None) -> io.NodeOutput:
        labels, read = read_label_maps(label_map, palette, order)
        panels = [()] * len(labels)
        notes = [[]] * len(labels)
        if picture is not None:
            labels, images = match_batches(labels, picture[..., :3])
            panels = zip(images, overlay(images, labels, opacity))
            notes = map(describe_agreement, score_images(labels, images, parser))
        sheets = []
        lines = []
        for asked, views, agreement in zip(labels, panels, notes):
            comfy.model_management.throw_exception_if_processing_interrupted()
            sheets.append(draw_sheet(asked, views, agreement))
            classes = [f"{DISPLAY_NAMES[k]} {share:.1%}" for k, share in measure_classes(asked)]
            lines.append(", ".join(classes + agreement))
        preview = torch.stack(sheets)
        report = "\n".join([*lines, *read])
        return io.NodeOutput(preview, report, ui={**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (report,)})


class DescribeLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_DescribeLabelMap",
            display_name="Describe Label Map",
            category=menu.LABEL_MAPS,
            description="Describes a label map in words, for the prompt of models that read text only: hair, glasses, "
                        "hat, earrings, necklace, mouth, and how the head is turned and tilted. The words follow from "
                        "the classes and their geometry by fixed rules, without a model.",
            search_aliases=["caption", "label map to text", "label map to prompt", "describe face"],
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of label maps."),
                io.Combo.Input("language", options=list(LANGUAGES), default=LANGUAGES[0],
                               tooltip="Language of the description."),
                io.String.Input("prompt", default="", multiline=True,
                                tooltip="Text that follows the description, such as a style."),
                *palette_inputs(),
            ],
            outputs=[
                io.String.Output(display_name="description", is_output_list=True,
                                 tooltip="Description and prompt, one text for each label map. Left and right are "
                                         "the picture's."),
                io.String.Output(display_name="report", tooltip="Measures behind the words, for each person."),
            ],
        )

    @classmethod
    def execute(cls, label_map, language=LANGUAGES[0], prompt="", palette=DEFAULT_PALETTE,
                order=DEFAULT_ORDER) -> io.NodeOutput:
        indices, read = read_label_maps(label_map, palette, order)
        texts = []
        lines = []
        for number, labels in enumerate(indices.cpu().numpy(), 1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            if not labels.any():
                raise ValueError(f"label_map: label map {number} is background alone, so there is nothing to describe. "
                                 "Connect the label map of a face")
            found = describe_map(labels)
            texts.append(write_sentence(found.words, language, prompt))
            lines += [f"label map {number}, person {person}: {note}" for person, note in enumerate(found.notes, 1)]
        return io.NodeOutput(texts, "\n".join([*lines, *read]))


class CacheInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_CacheInfo",
            display_name="Show Mask Cache (MDiT)",
            category=menu.ADVANCED,
            description="Reports what is stored for a mask and its exemplar: entries, bytes, cache hits and device. "
                        "Runs every time.",
            search_aliases=["cache info", "cache statistics", "static pass", "memory"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input("source", types=[MDiTMask, io.Conditioning],
                                   tooltip="Mask, or a conditioning with masks."),
                io.AnyType.Input("after", optional=True,
                                 tooltip="Output of the node that must run first, such as the latent of the sampler. "
                                         "Unconnected: this node may run before the sampler."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="One line for all entries, and one for each entry."),
                io.Int.Output(display_name="entries", tooltip="Number of entries: one for each model, size and "
                                                              "setting."),
                io.Int.Output(display_name="bytes", tooltip="Memory of the entries in bytes."),
                io.Int.Output(display_name="hits", tooltip="Number of cache hits."),
                io.String.Output(display_name="device", tooltip="Device that holds the entries; empty without "
                                                                "entries."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs) -> float:
        return float("nan")  # NaN equals nothing: the host runs the node every time

    @classmethod
    def execute(cls, source, after=None) -> io.NodeOutput:
        found = list_entries(source)
        return io.NodeOutput(str(found), len(found.entries), found.nbytes, found.hits, found.devices,
                             ui=ui.PreviewText(str(found)))


NODES = (PreviewLabelMap, DescribeLabelMap, CacheInfo)
