"""DynaST: the layout of a label with the appearance of an exemplar."""
from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..mdit.dynast import face, host, pose
from ..mdit.dynast.config import SMOOTH, TOP_K
from ..mdit.dynast.label import SMALLEST, Label
from ..mdit.labelmap import DEFAULT_ORDER, DEFAULT_PALETTE
from ..mdit.shared.keypoints import THRESHOLD, UNITS, Reading
from . import menu
from .files import add_folder, check_file, find_file, list_files
from .labelmap import palette_inputs, read_and_tell
from .types import DynaSTLabel, DynaSTModel, PoseKeypoints, missing_input

FOLDER, ENDINGS = "dynast", (".safetensors", ".pth")
SIZE = 256  # of the published model

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), endings=ENDINGS)


def size_input() -> io.Input:
    return io.Int.Input("size", default=SIZE, min=SMALLEST, max=1024, step=8, optional=True, advanced=True,
                        tooltip="Side of the label and of the image in pixels. 256 in training. The quality of other "
                                "sizes is unknown.")


def label_output() -> io.Output:
    return DynaSTLabel.Output(display_name="label", tooltip="Label for 'Synthesize after Exemplar'.")


class LoadDynaST(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadDynaST",
            display_name="Load DynaST",
            category=menu.DYNAST,
            description="Loads a DynaST generator in the published layout. The generator renders the layout of a label "
                        "with the appearance of an exemplar. The kind of label, pose or face, is detected from the "
                        "file.",
            search_aliases=["DynaST loader", "exemplar", "pose transfer", "DeepFashion", "latest_net_G"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(FOLDER, endings=ENDINGS),
                               tooltip="File from models/dynast. The published file is latest_net_G.pth."),
                io.Int.Input("top_k", default=TOP_K, min=1, max=64, optional=True, advanced=True,
                             tooltip="Number of candidates in the exemplar that each position passes to the next "
                                     "finer level. 4 in training. The file does not contain this value."),
                io.Float.Input("smooth", default=SMOOTH, min=0.0001, max=10.0, step=0.0001, round=0.0001, optional=True,
                               advanced=True,
                               tooltip="Temperature of the attention in the finer levels. Lower values put more weight "
                                       "on the best candidate. 0.01 in training. The file does not contain this "
                                       "value."),
            ],
            outputs=[DynaSTModel.Output(display_name="model", tooltip="Generator for 'Synthesize after Exemplar'.")],
        )

    @classmethod
    def validate_inputs(cls, weights_name: str | None) -> bool | str:
        return check_file(weights_name, "weights_name", FOLDER, endings=ENDINGS)

    @classmethod
    def execute(cls, weights_name, top_k=TOP_K, smooth=SMOOTH) -> io.NodeOutput:
        path = find_file(weights_name, "weights_name", FOLDER, endings=ENDINGS)
        return io.NodeOutput(host.load_dynast(path, top_k, smooth))


class PoseLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PoseLabel",
            display_name="Build Pose Label",
            category=menu.DYNAST,
            description="Converts the key points of a body to the input of DynaST's model of persons. Pose images "
                        "drawn by other nodes do not work.",
            search_aliases=["DynaST", "openpose", "DWPose", "SDPose", "key points", "DeepFashion"],
            inputs=[
                PoseKeypoints.Input("keypoints", tooltip="Key points from 'SDPose Keypoint Extractor' or another node "
                                                         "with an output of type POSE_KEYPOINT. Each image gives one "
                                                         "label. Images are stretched to a square: crop or pad images "
                                                         "before the pose is detected."),
                io.Int.Input("person", default=0, min=0, max=255, optional=True,
                             tooltip="Index of the person in each image. 0 is the first."),
                size_input(),
                io.Float.Input("threshold", default=THRESHOLD, min=0.0, max=1.0, step=0.01, optional=True,
                               advanced=True,
                               tooltip="Score below which a point is missing. 0.3 as in the host's nodes. Missing "
                                       "points are left out together with their limbs."),
                io.Combo.Input("units", options=list(UNITS), default=UNITS[0], optional=True, advanced=True,
                               tooltip="Unit of the points: pixels, fractions of the image (0 to 1) or thousandths (0 "
                                       "to 1000). auto: fractions if all numbers are small, otherwise pixels."),
                missing_input("Images without the person: an error, or a label without a pose, so that the batch keeps "
                              "its length."),
            ],
            outputs=[label_output(), io.Image.Output(display_name="preview", tooltip="Drawing in the label.")],
        )

    @classmethod
    def execute(cls, keypoints, person=0, size=SIZE, threshold=THRESHOLD, units=UNITS[0],
                missing="error") -> io.NodeOutput:
        reading = Reading(threshold=threshold, units=units)
        label = pose.from_keypoints(keypoints, size, person, reading, missing != "error")
        return io.NodeOutput(label, label.channels[:, :3].movedim(1, -1) / 255)


class FaceEdgeLabel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_FaceEdgeLabel",
            display_name="Build Face Edge Label",
            category=menu.DYNAST,
            description="Converts a face label map to the input of DynaST's face models. The label contains the "
                        "outlines of the classes, the distances to the outlines, and the edges of the image around the "
                        "face.",
            search_aliases=["DynaST", "canny", "edges", "distance map", "CelebA-HQ", "sketch"],
            inputs=[
                io.Image.Input("image", tooltip="Image of the face. Only the edges outside the face are used."),
                io.Image.Input("label_map", tooltip="Label map of the same face, from 'Parse Face' or painted. Image "
                                                    "and label map are stretched to a square."),
                *palette_inputs(),
                size_input(),
                missing_input("Label maps without a face: an error, or a label with the edges of the image alone."),
            ],
            outputs=[label_output(),
                     io.Image.Output(display_name="preview", tooltip="All edges of the label, white on black.")],
        )

    @classmethod
    def execute(cls, image, label_map, palette=DEFAULT_PALETTE, order=DEFAULT_ORDER, size=SIZE,
                missing="error") -> io.NodeOutput:
        indices = read_and_tell(label_map, palette, order)
        label = face.from_label_maps(image, indices, size, missing != "error")
        return io.NodeOutput(label, label.channels[:, 0, ..., None].expand(-1, -1, -1, 3) / 255)


class ExemplarSynthesis(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ExemplarSynthesis",
            display_name="Synthesize after Exemplar",
            category=menu.DYNAST,
            description="Renders the layout of a label with the appearance of an exemplar image. Each position "
                        "searches the exemplar for matching positions. If no position matches, the model generates the "
                        "position without the exemplar. The model runs once, without steps and without text.",
            search_aliases=["DynaST", "pose transfer", "exemplar-guided", "reference image", "style of a face"],
            inputs=[
                DynaSTModel.Input("model", tooltip="Generator from 'Load DynaST'."),
                DynaSTLabel.Input("label", tooltip="Layout of the result: from 'Build Pose Label' for a model of "
                                                   "persons, from 'Build Face Edge Label' for a face model."),
                io.Image.Input("exemplar", tooltip="Image whose appearance is taken over, stretched to a square. One "
                                                   "image for all labels, or one for each."),
                DynaSTLabel.Input("exemplar_label", tooltip="Layout of the exemplar, from the same node as the label "
                                                            "and of the same size."),
                io.Boolean.Input("warp_kept", default=False, optional=True, advanced=True,
                                 tooltip="Positions that 'warped' shows. Off: positions that the pruning test rejects, "
                                         "as in the published code. On: positions that the test keeps."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="Result, in the size of the labels."),
                io.Image.Output(display_name="warped", tooltip="Pixels of the exemplar, moved to the layout of the "
                                                               "label."),
                io.Mask.Output(display_name="confidence", tooltip="Fraction of each pixel that comes from the "
                                                                  "exemplar. The model generates the rest."),
            ],
        )

    @classmethod
    def execute(cls, model, label, exemplar, exemplar_label, warp_kept=False) -> io.NodeOutput:
        for source, given in (("label", label), ("exemplar_label", exemplar_label)):
            if not isinstance(given, Label):
                raise ValueError(f"{source}: it comes from a node of another pack: connect 'Build Pose Label' or "
                                 "'Build Face Edge Label'")
        found = model.synthesize(label, exemplar, exemplar_label, warp_kept)
        return io.NodeOutput(found.image, found.warped, found.confidence)


NODES = (LoadDynaST, PoseLabel, FaceEdgeLabel, ExemplarSynthesis)
