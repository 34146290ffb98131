"""Nodes that show label maps and the cache of a mask."""
from __future__ import annotations

import torch

import comfy.model_management
from comfy_api.latest import io, ui

from ..mdit.labelmap import (
    DEFAULT_ORDER, DEFAULT_PALETTE, DISPLAY_NAMES, draw_sheet, measure_classes, overlay, read_label_maps,
    resize_nearest)
from ..mdit.mditface.inspection import list_entries
from ..mdit.parsing import host, measure_agreement
from .checks import check_numbers
from .labelmap import CATEGORY, palette_inputs
from .parsing import parser_input
from .types import MDiTMask


def match_batches(labels, images):
    """Label maps (B, H, W) and images (B, h, w, 3) -> the same number of both, the label maps resized to the images."""
    batch = max(len(labels), len(images))
    if {len(labels), len(images)} - {1, batch} or 0 in images.shape:
        raise ValueError(f"picture: {len(images)} images for {len(labels)} label maps: connect one image for all label "
                         "maps, or one for each")
    height, width = images.shape[1:3]
    labels = resize_nearest(labels, height, width).expand(batch, -1, -1)
    return labels, images.expand(batch, -1, -1, -1)


def describe_agreement(labels, images, parser) -> list[list[str]]:
    """Two lines for each image: pixel accuracy and mean IoU of the parsed image with its label map."""
    parsed, _ = parser.parse(images)
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
        check_numbers(opacity=opacity)
        labels, read = read_label_maps(label_map, palette, order)
        panels = [()] * len(labels)
        notes = [[]] * len(labels)
        if picture is not None:
            labels, images = match_batches(labels, picture[..., :3])
            panels = zip(images, overlay(images, labels, opacity))
            notes = describe_agreement(labels, images, parser or host.load_patched_parser())
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


class CacheInfo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_CacheInfo",
            display_name="Show MDiT Mask Cache",
            category="MDiTFace",
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


NODES = (PreviewLabelMap, CacheInfo)
