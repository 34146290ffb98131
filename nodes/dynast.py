"""DynaST: the layout of a label with the looks of an exemplar."""
from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..mdit.dynast import face, host, pose
from ..mdit.dynast.config import SMOOTH, TOP_K
from ..mdit.dynast.label import SMALLEST, Label
from ..mdit.labelmap import DEFAULT_ORDER, DEFAULT_PALETTE, to_indices
from .files import add_folder, find_file, list_files
from .labelmap import palette_inputs
from .types import DynaSTLabel, DynaSTModel, PoseKeypoints

CATEGORY = "MDiTFace/exemplar"
FOLDER, ENDINGS = "dynast", (".safetensors", ".pth")
SIZE = 256  # of the published model

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), endings=ENDINGS)


def size_input() -> io.Input:
    return io.Int.Input("size", default=SIZE, min=SMALLEST, max=1024, step=8, optional=True, advanced=True,
                        tooltip="Side of the label, and so of the picture, in pixels. 256 in training; how good others "
                                "are is not known.")


def label_output() -> io.Output:
    return DynaSTLabel.Output(display_name="label", tooltip="For Synthesize after Exemplar.")


class LoadDynaST(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadDynaST",
            display_name="Load DynaST",
            category=CATEGORY,
            description="Loads a generator of DynaST, which gives the layout of a label the looks of an exemplar, from "
                        "a file in the published layout. Whether it draws persons or faces shows in the file.",
            search_aliases=["DynaST loader", "exemplar", "pose transfer", "DeepFashion", "latest_net_G"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(FOLDER, endings=ENDINGS),
                               tooltip="A file from models/dynast. The published one is latest_net_G.pth."),
                io.Int.Input("top_k", default=TOP_K, min=1, max=64, optional=True, advanced=True,
                             tooltip="How many places in the exemplar each place hands on to the next finer level. 4 "
                                     "in training; it does not show in the file."),
                io.Float.Input("smooth", default=SMOOTH, min=0.0001, max=10.0, step=0.0001, round=0.0001, optional=True,
                               advanced=True,
                               tooltip="Temperature of the attention in the finer levels: the lower, the more only the "
                                       "best place counts. 0.01 in training; it does not show in the file."),
            ],
            outputs=[DynaSTModel.Output(display_name="model", tooltip="For Synthesize after Exemplar.")],
        )

    @classmethod
    def execute(cls, weights_name, top_k=TOP_K, smooth=SMOOTH) -> io.NodeOutput:
        return io.NodeOutput(host.load(find_file(weights_name, "weights_name", FOLDER), top_k, smooth))


class PoseLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PoseLabel",
            display_name="Build Pose Label",
            category=CATEGORY,
            description="Draws the key points of a body as DynaST's model of persons reads them. A picture of a pose "
                        "in the colours of other nodes does not do.",
            search_aliases=["DynaST", "openpose", "DWPose", "SDPose", "key points", "DeepFashion"],
            inputs=[
                PoseKeypoints.Input("keypoints", tooltip="Key points of SDPose Keypoint Extractor, or of another node "
                                                         "that gives POSE_KEYPOINT; one label for each picture. The "
                                                         "picture is stretched to a square: make it one before."),
                io.Int.Input("person", default=0, min=0, max=255, optional=True,
                             tooltip="Which person of each picture; 0 is the first."),
                size_input(),
            ],
            outputs=[label_output(), io.Image.Output(display_name="preview", tooltip="The drawing in the label.")],
        )

    @classmethod
    def execute(cls, keypoints, person=0, size=SIZE) -> io.NodeOutput:
        label = pose.from_keypoints(keypoints, size, person)
        return io.NodeOutput(label, label.channels[:, :3].movedim(1, -1) / 255)


class FaceEdgeLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_FaceEdgeLabel",
            display_name="Build Face Edge Label",
            category=CATEGORY,
            description="Makes of a face's label map what DynaST's models of faces read: the outlines of its parts, "
                        "how far each pixel is from them, and the edges of the picture around the face.",
            search_aliases=["DynaST", "canny", "edges", "distance map", "CelebA-HQ", "sketch"],
            inputs=[
                io.Image.Input("image", tooltip="Picture of the face. Only its edges outside the face count."),
                io.Image.Input("label_map", tooltip="Label map of the same face, from Parse Face or painted. Both are "
                                                    "stretched to a square."),
                *palette_inputs(),
                size_input(),
            ],
            outputs=[label_output(),
                     io.Image.Output(display_name="preview", tooltip="All edges in the label, white on black.")],
        )

    @classmethod
    def execute(cls, image, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, size=SIZE) -> io.NodeOutput:
        label = face.from_label_maps(image, to_indices(label_map, palette, order), size)
        return io.NodeOutput(label, label.channels[:, 0, ..., None].expand(-1, -1, -1, 3) / 255)


class ExemplarSynthesis(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ExemplarSynthesis",
            display_name="Synthesize after Exemplar",
            category=CATEGORY,
            description="Draws the layout of a label with the looks of an exemplar: each place finds its like in the "
                        "exemplar, and where it finds none, the model draws on its own. One pass: no steps, no text.",
            search_aliases=["DynaST", "pose transfer", "exemplar-guided", "reference image", "style of a face"],
            inputs=[
                DynaSTModel.Input("model", tooltip="From Load DynaST."),
                DynaSTLabel.Input("label", tooltip="The layout to draw: from Build Pose Label for a model of persons, "
                                                   "from Build Face Edge Label for one of faces."),
                io.Image.Input("exemplar", tooltip="The picture whose looks it takes, stretched to a square. One for "
                                                   "all labels, or one for each."),
                DynaSTLabel.Input("exemplar_label", tooltip="The exemplar's own layout, from the same node as the "
                                                            "label and of the same size."),
                io.Boolean.Input("warp_kept", default=False, optional=True, advanced=True,
                                 tooltip="What 'warped' shows: off, the places that the model's test rejected, as in "
                                         "the published code; on, those that it kept."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture, of the labels' size."),
                io.Image.Output(display_name="warped", tooltip="The exemplar's pixels moved to the label's layout, "
                                                               "before the model draws."),
                io.Mask.Output(display_name="confidence", tooltip="How much of each pixel comes from the exemplar; the "
                                                                  "rest the model drew on its own."),
            ],
        )

    @classmethod
    def execute(cls, model, label, exemplar, exemplar_label, warp_kept=False) -> io.NodeOutput:
        for source, given in (("label", label), ("exemplar_label", exemplar_label)):
            if not isinstance(given, Label):
                raise ValueError(f"{source}: it comes from another pack's node: connect 'Build Pose Label' or 'Build "
                                 "Face Edge Label'")
        return io.NodeOutput(*model.synthesize(label, exemplar, exemplar_label, warp_kept))


NODES = (LoadDynaST, PoseLabel, FaceEdgeLabel, ExemplarSynthesis)
