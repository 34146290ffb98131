"""Nodes that show what a graph holds: label maps, and the cache of a mask."""
from __future__ import annotations

import torch

import comfy.model_management
from comfy_api.latest import io, ui

from ..mdit.labelmap import (
    DEFAULT_ORDER, DEFAULT_PALETTE, DISPLAY_NAMES, draw_sheet, measure_classes, overlay, resize_nearest, to_indices)
from ..mdit.mditface.inspection import contents
from ..mdit.parsing import host, measure_agreement
from .labelmap import CATEGORY, palette_inputs
from .parsing import parser_input
from .types import MDiTMask


def fitted(labels, picture):
    """Label maps (B, H, W) and pictures (B, h, w, 3) as two batches of one length, the maps of the pictures' size."""
    batch = max(len(labels), len(picture))
    if {len(labels), len(picture)} - {1, batch} or 0 in picture.shape:
        raise ValueError(f"picture: {len(picture)} pictures for {len(labels)} label maps: give one picture for all, or "
                         "one for each")
    labels = resize_nearest(labels, *picture.shape[1:3]).expand(batch, -1, -1)
    return labels, picture.expand(batch, -1, -1, -1)


def agreements(labels, picture, parser) -> list[list[str]]:
    """How far a parser sees each label map in its picture, as two lines."""
    parsed, _ = parser.parse(picture)
    scores = [measure_agreement(found.cpu().numpy(), asked.cpu().numpy()) for found, asked in zip(parsed, labels)]
    return [[f"label agreement {found['pixel_accuracy']:.3f}", f"mean IoU {found['mean_iou_present']:.3f}"]
            for found in scores]


class PreviewLabelMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PreviewLabelMap",
            display_name="Preview Label Map",
            category=CATEGORY,
            description="Shows a label map with the names and shares of its parts; with a picture, also that, the "
                        "label map laid over it, and how far a face parser sees the label map in it.",
            search_aliases=["legend", "overlay", "compare", "label agreement", "judge", "view mask"],
            is_output_node=True,
            inputs=[
                io.Image.Input("label_map", tooltip="Label map, or a batch of them."),
                *palette_inputs(),
                io.Image.Input("picture", optional=True,
                               tooltip="The generated face, or the photograph that the label map was made from."),
                io.Float.Input("opacity", default=0.5, min=0.0, max=1.0, step=0.05, optional=True,
                               tooltip="How strongly the label map covers the picture."),
                parser_input(),
            ],
            outputs=[
                io.Image.Output(display_name="preview", tooltip="Label map, picture, overlay and legend side by side."),
                io.String.Output(display_name="report", tooltip="One line a label map: shares and label agreement."),
            ],
        )

    @classmethod
    def execute(cls, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, picture=None, opacity=0.5,
                parser=None) -> io.NodeOutput:
        labels = to_indices(label_map, palette, order)
        panels, notes = [()] * len(labels), [[]] * len(labels)
        if picture is not None:
            labels, picture = fitted(labels, picture[..., :3])
            panels = zip(picture, overlay(picture, labels, opacity))
            notes = agreements(labels, picture, parser or host.load_patched_parser())
        sheets, lines = [], []
        for asked, beside, found in zip(labels, panels, notes):
            comfy.model_management.throw_exception_if_processing_interrupted()
            sheets.append(draw_sheet(asked, beside, found))
            classes = [f"{DISPLAY_NAMES[k]} {fraction:.1%}" for k, fraction in measure_classes(asked)]
            lines.append(", ".join([*classes, *found]))
        preview, report = torch.stack(sheets), "\n".join(lines)
        return io.NodeOutput(preview, report, ui={**ui.PreviewImage(preview, cls=cls).as_dict(), "text": (report,)})


class CacheInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_CacheInfo",
            display_name="Show MDiT Mask Cache",
            category="MDiTFace",
            description="Says what is kept of a mask and its exemplar at this moment: entries, bytes, how often they "
                        "were read again, and the device they lie on. Looks anew at every run.",
            search_aliases=["cache info", "cache statistics", "static pass", "memory"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input("source", types=[MDiTMask, io.Conditioning],
                                   tooltip="A mask, or a conditioning with masks."),
                io.AnyType.Input("after", optional=True,
                                 tooltip="Connect what shall be done first, such as the sampler's latent. Unconnected, "
                                         "the cache may be read before the sampler has run."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="One line on all, and one an entry."),
                io.Int.Output(display_name="entries", tooltip="Results kept: one for each model, size and setting."),
                io.Int.Output(display_name="bytes", tooltip="What they take in memory."),
                io.Int.Output(display_name="hits", tooltip="How often they were read in place of being computed."),
                io.String.Output(display_name="device", tooltip="Where they lie; empty without an entry."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs) -> float:
        return float("nan")  # equal to nothing: the host runs the node each time

    @classmethod
    def execute(cls, source, after=None) -> io.NodeOutput:
        found = contents(source)
        return io.NodeOutput(str(found), len(found.entries), found.nbytes, found.hits, found.devices,
                             ui=ui.PreviewText(str(found)))


NODES = (PreviewLabelMap, CacheInfo)
