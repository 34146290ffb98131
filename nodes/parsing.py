"""From pictures to label maps: face parsers, and the host's face detector and landmarks."""
from __future__ import annotations

from pathlib import Path

import torch

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from ..mdit.labelmap import from_landmarks, to_image, to_indices
from ..mdit.parsing import WEIGHTS, host, region
from .files import add_folder, names_in, path_of
from .labelmap import CATEGORY, label_map_output
from .types import FaceLandmarks, MDiTFaceParser

FOLDER, ENDINGS = "face_parsing", (".safetensors", ".pth")

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), WEIGHTS.parent, endings=ENDINGS)


def parser_input() -> io.Input:
    return MDiTFaceParser.Input("parser", optional=True,
                                tooltip="Parser from Load Face Parser. Unconnected: the small bundled one, which knows "
                                        "the faces of the bundled model and errs on photographs.")


class LoadFaceParser(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadFaceParser",
            display_name="Load Face Parser",
            category=CATEGORY,
            description="Loads a network that finds the 19 parts of a face: Segformer or BiSeNet weights in their "
                        "published layouts, or the pack's own. Which it is shows in the file.",
            search_aliases=["face parsing", "segformer", "BiSeNet", "face segmentation model"],
            inputs=[
                io.Combo.Input("parser_name", options=names_in(FOLDER, endings=ENDINGS), default=WEIGHTS.name,
                               tooltip="A file from models/face_parsing, or the bundled one. A Segformer needs its "
                                       "config.json in the same folder."),
            ],
            outputs=[MDiTFaceParser.Output(display_name="parser", tooltip="For Parse Face.")],
        )

    @classmethod
    def execute(cls, parser_name) -> io.NodeOutput:
        return io.NodeOutput(host.load(path_of(parser_name, "parser_name", FOLDER)))


class ParseFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ParseFace",
            display_name="Parse Face",
            category=CATEGORY,
            description="Finds the parts of the face in a picture and paints them as a label map. Parsers expect one "
                        "face that fills much of the picture: cut it out first with Crop Face.",
            search_aliases=["face parsing", "image to label map", "photo to mask", "face segmentation", "BiSeNet"],
            inputs=[
                io.Image.Input("image", tooltip="Picture of a face, or a batch of them, of any size."),
                parser_input(),
            ],
            outputs=[
                label_map_output(),
                io.Mask.Output(display_name="confidence", tooltip="How probable the parser finds each pixel's class."),
            ],
        )

    @classmethod
    def execute(cls, image, parser=None) -> io.NodeOutput:
        labels, confidence = (parser or host.load()).parse(image)
        return io.NodeOutput(to_image(labels), confidence)


class CropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_CropFace",
            display_name="Crop Face",
            category=CATEGORY,
            description="Cuts faces out of pictures as squares with room around them, as face parsers and face models "
                        "expect them. Paste Face puts them back.",
            search_aliases=["face crop", "face detailer", "bbox crop", "crop and stitch"],
            inputs=[
                io.Image.Input("image", tooltip="Picture, or a batch of them."),
                io.Int.Input("index", default=0, min=-1, max=255,
                             tooltip="Which face of each picture: 0 the largest, 1 the next. -1: all of them."),
                io.Float.Input("context", default=0.6, min=0.0, max=2.0, step=0.05,
                               tooltip="Room on each side of the box, in parts of its longer side. 0.6 takes in hair "
                                       "and neck around the box of a face detector."),
                io.Int.Input("size", default=512, min=64, max=4096, step=8,
                             tooltip="Side of the cut-out squares in pixels."),
                io.BoundingBox.Input("bboxes", optional=True, force_input=True,
                                     tooltip="Boxes of the faces, from Detect Face Landmarks, SAM3 Detect or drawn."),
                io.Mask.Input("mask", optional=True,
                              tooltip="In place of boxes: the face as a mask, one for each picture or for all."),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="The squares, picture by picture."),
                io.BoundingBox.Output(display_name="regions", tooltip="Where they were; for Paste Face."),
            ],
        )

    @classmethod
    def execute(cls, image, index=0, context=0.6, size=512, bboxes=None, mask=None) -> io.NodeOutput:
        if (bboxes is None) == (mask is None):
            raise ValueError("bboxes: connect either boxes or a mask of the face to Crop Face, and not both")
        if bboxes is None:
            boxes = region.per_picture(region.boxes_of(mask, *image.shape[1:3]), len(image), "mask")
        else:
            boxes = region.per_picture(bboxes, len(image), "bboxes")
        regions = [[region.square_around(box, context) for box in region.chosen(found, index, number)]
                   for number, found in enumerate(boxes)]
        faces = [region.resize(region.cut(picture, place), size, size)
                 for picture, places in zip(image, regions) for place in places]
        if not faces:
            raise ValueError("bboxes: no face in any picture: lower the detector's threshold, or connect a mask")
        return io.NodeOutput(torch.stack(faces), [[place._asdict() for place in places] for places in regions])


class PasteFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PasteFace",
            display_name="Paste Face",
            category=CATEGORY,
            description="Puts faces that Crop Face cut out back into their pictures.",
            search_aliases=["face paste", "uncrop", "stitch", "face detailer", "crop and stitch"],
            inputs=[
                io.Image.Input("image", tooltip="The pictures that the faces were cut out of."),
                io.Image.Input("faces", tooltip="The faces, as many as were cut out and in that order; of any size."),
                io.BoundingBox.Input("regions", force_input=True, tooltip="From Crop Face."),
                io.Float.Input("feather", default=0.1, min=0.0, max=0.5, step=0.01,
                               tooltip="Over what part of each side the face fades into the picture."),
                io.Boolean.Input("label_map", default=False, advanced=True,
                                 tooltip="The faces are label maps: hard edges and no mixed colours."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures with the faces in them.")],
        )

    @classmethod
    def execute(cls, image, faces, regions, feather=0.1, label_map=False) -> io.NodeOutput:
        regions = [[region.Region(*(round(box[key]) for key in region.Region._fields)) for box in boxes]
                   for boxes in region.per_picture(regions, len(image), "regions")]
        if sum(map(len, regions)) != len(faces):
            raise ValueError(f"faces: {len(faces)} for {sum(map(len, regions))} regions: paste all the faces that Crop "
                             "Face cut out, in the same order")
        image, remaining = image[..., :3].clone(), iter(faces[..., :3])
        for picture, places in zip(image, regions):
            for place in places:
                face = region.resize(next(remaining), place.width, place.height, smooth=not label_map)
                region.paste(picture, face, place, region.feathered(place, 0 if label_map else feather))
        return io.NodeOutput(image)


class LabelMapFromLandmarks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LabelMapFromLandmarks",
            display_name="Build Label Map from Face Landmarks",
            category=CATEGORY,
            description="Paints skin, nose, brows, eyes, lips and mouth from the face landmarks of Detect Face "
                        "Landmarks (MediaPipe). Hair, ears, neck and clothes have no landmarks: take them from a label "
                        "map or from masks.",
            search_aliases=["mediapipe", "face mesh", "landmarks to label map", "face parts"],
            inputs=[
                FaceLandmarks.Input("face_landmarks", tooltip="From Detect Face Landmarks (MediaPipe)."),
                io.Image.Input("label_map", optional=True,
                               tooltip="Label map to paint the faces on. Unconnected: background."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, face_landmarks, label_map=None) -> io.NodeOutput:
        size = tuple(face_landmarks["image_size"])
        frames = [[face["landmarks_xy"] for face in faces] for faces in face_landmarks["frames"]]
        background = torch.zeros(1, *size, dtype=torch.uint8) if label_map is None else to_indices(label_map)
        if background.shape[1:] != size or len(background) not in (1, len(frames)):
            raise ValueError(f"label_map: {len(background)} of height and width {tuple(background.shape[1:])}, but the "
                             f"landmarks are of {len(frames)} pictures of {size}: give it the pictures' size")
        labels = from_landmarks(frames, background).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(to_image(labels))


NODES = (LoadFaceParser, ParseFace, CropFace, PasteFace, LabelMapFromLandmarks)
