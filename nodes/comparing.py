"""Nodes that compare: images with their label map, and a label map with its edited form."""
from __future__ import annotations

import torch

import comfy.model_management
from comfy_api.latest import io

from ..mdit.labelmap import (
    DEFAULT_ORDER, DEFAULT_PALETTE, describe_changes, find_changed, find_uncovered, read_label_maps, resize_nearest,
    widen_and_soften)
from . import menu
from .labelmap import palette_inputs, read_named
from .parsing import parser_input
from .preview import describe_agreement, match_batches, score_images

MEASURES = {"label agreement": "pixel_accuracy", "mean IoU": "mean_iou_present"}
WIDEST = 1024  # pixels around a changed region
SAME_SHAPE = 0.02  # the most by which the ratios of width to height of two forms of a label map differ


class PickByAgreement(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PickByAgreement",
            display_name="Pick by Label Agreement",
            category=menu.PHOTOGRAPHS,
            description="Picks the images of a batch that follow a label map best. A face parser finds the classes of "
                        "each image; the label agreement is the share of pixels in which they are those of the label "
                        "map.",
            search_aliases=["best of N", "choose image", "rank images", "filter batch", "select best", "judge"],
            inputs=[
                io.Image.Input("images", tooltip="Batch of images, such as several seeds of one label map."),
                io.Image.Input("label_map", tooltip="Label map of all images, or one for each image. The label map is "
                                                    "resized to the images."),
                io.Int.Input("count", default=1, min=1, max=4096,
                             tooltip="Number of images to pick. A batch with fewer images is returned whole."),
                io.Combo.Input("measure", options=list(MEASURES), default="label agreement",
                               tooltip="label agreement: each pixel counts the same. mean IoU: each class of the label "
                                       "map counts the same, small ones such as eyes, too."),
                *palette_inputs(),
                parser_input(),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Picked images, the best first."),
                io.Float.Output(display_name="agreement", is_output_list=True,
                                tooltip="Measure of each picked image, 0 to 1."),
                io.String.Output(display_name="report", tooltip="Label agreement and mean IoU of all images, the best "
                                                                "first. The first image of the batch is image 0."),
            ],
        )

    @classmethod
    def execute(cls, images, label_map, count=1, measure="label agreement", palette=DEFAULT_PALETTE,
                order=DEFAULT_ORDER, parser=None) -> io.NodeOutput:
        labels, read = read_label_maps(label_map, palette, order)
        if len(labels) not in (1, len(images)):
            raise ValueError(f"label_map: there are {len(labels)} label maps for {len(images)} images. Connect one for "
                             "each image, or one for all")
        labels, pictures = match_batches(labels, images[..., :3], "images")
        scores = score_images(labels, pictures, parser)
        key = MEASURES[measure]
        ranking = sorted(range(len(scores)), key=lambda i: -scores[i][key])
        picked = ranking[:max(1, count)]
        lines = [f"image {i}: {', '.join(describe_agreement(scores[i]))}{', picked' if i in picked else ''}"
                 for i in ranking]
        return io.NodeOutput(images[picked], [scores[i][key] for i in picked], "\n".join([*lines, *read]))


class ChangedRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ChangedRegion",
            display_name="Find Changed Region",
            category=menu.LABEL_MAPS,
            description="Compares a label map with its edited form. The mask shows what must be drawn again: the parts "
                        "that changed and what they uncover. Use it to inpaint a photograph whose label map was "
                        "repainted.",
            search_aliases=["label map difference", "diff mask", "edit mask", "inpaint mask", "compare label maps"],
            inputs=[
                io.Image.Input("before", tooltip="Label map before the edit, such as that of 'Parse Face'. Its size is "
                                                 "the size of the masks."),
                io.Image.Input("after", tooltip="Edited label map, such as that of 'Paint Face'. Another "
                                                "size of the same shape is resized."),
                io.Int.Input("grow", default=8, min=0, max=WIDEST,
                             tooltip="Distance in pixels by which the masks reach around the changed pixels."),
                io.Int.Input("feather", default=8, min=0, max=WIDEST,
                             tooltip="Width in pixels of the soft border outside of that."),
                *palette_inputs(),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="All changed pixels, grown and feathered."),
                io.Mask.Output(display_name="uncovered",
                               tooltip="Pixels where a part went away and shows what lies behind, such as the skin "
                                       "behind glasses, grown and feathered."),
                io.String.Output(display_name="report", tooltip="Share of the picture that changed, and what became of "
                                                                "each class."),
                io.Boolean.Output(display_name="changed", tooltip="Whether any pixel changed. 'If/Else Switch' then "
                                                                  "leaves out what has nothing to draw."),
            ],
        )

    @classmethod
    def execute(cls, before, after, grow=8, feather=8, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER) -> io.NodeOutput:
        old, notes = read_named(before, "before", palette, order)
        new, more = read_named(after, "after", palette, order)
        new, resized = match_forms(old, new.to(old.device))
        old, new = torch.broadcast_tensors(old, new)  # (B, H, W)
        changed = find_changed(old, new)
        uncovered = find_uncovered(old, new)
        edits = zip(old, new, changed, uncovered)
        lines = [describe_edit(number, *edit) for number, edit in enumerate(edits, 1)]
        stop = comfy.model_management.throw_exception_if_processing_interrupted
        masks = [widen_and_soften(region, grow, feather, stop) for region in (changed, uncovered)]
        return io.NodeOutput(*masks, "\n".join([*lines, *resized, *notes, *more]), bool(changed.any()))


def match_forms(before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """The edited label maps in the size of those before, and a note on a resize.

    Raises ValueError for other shapes and for batches that do not fit.
    """
    if len(after) != len(before) and 1 not in (len(before), len(after)):
        raise ValueError(f"after: there are {len(after)} label maps, but {len(before)} at 'before'. Connect one for "
                         "each, or one for all")
    height, width = before.shape[1:]
    h, w = after.shape[1:]
    if (h, w) == (height, width):
        return after, []
    if abs(w * height / (h * width) - 1) > SAME_SHAPE:
        raise ValueError(f"after: the label map has {w} x {h} pixels, that at 'before' {width} x {height}. Give both "
                         "the same ratio of width to height")
    return resize_nearest(after, height, width), [f"after: {w} x {h} resized to {width} x {height}"]


def describe_edit(number: int, old: torch.Tensor, new: torch.Tensor, changed: torch.Tensor, uncovered: torch.Tensor
                  ) -> str:
    """The report's line on a label map (H, W), its edited form, and the changed and the uncovered pixels."""
    if not changed.any():
        return f"label map {number}: nothing changed"
    share, behind = (region.float().mean().item() for region in (changed, uncovered))
    return "; ".join([f"label map {number}: {tell(share)} of the picture changed, {tell(behind)} uncovered",
                      *describe_changes(old, new)])


def tell(share: float) -> str:
    """A share in words; few pixels are not none."""
    return "less than 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


NODES = (PickByAgreement, ChangedRegion)
