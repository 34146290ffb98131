"""From images to label maps: face parsers, and the host's face detector and landmarks."""
from __future__ import annotations

import itertools
import logging
from pathlib import Path

import torch

import comfy.model_management
import folder_paths
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker

from ..mdit.labelmap import SOFT, find_doubts, from_landmarks, is_soft, read_landmarks, to_image
from ..mdit.parsing import WEIGHTS, host, pasting, region
from ..mdit.parsing.region import SORTING, Region
from ..mdit.parsing.tilt import find_tilts
from ..mdit.shared.boxes import UNITS, list_boxes, list_corners, match_images, read_boxes
from ..mdit.shared.segs import make_segs
from ..mdit.shared.text_files import shorten
from . import menu
from .files import add_folder, check_file, find_file, list_files
from .labelmap import label_map_output, read_and_tell
from .types import BOXES, FaceLandmarks, MDiTFaceParser, PoseKeypoints, missing_input

FOLDER = "face_parsing"
ENDINGS = (".safetensors", ".pth")
LARGEST = 4096  # side of a cropped square in pixels
REMEDIES = {  # for images without a face, by the input that should show it
    "bboxes": "Lower the detector's threshold, set missing_frame_fallback in 'Detect Face Landmarks (MediaPipe)', or "
              "connect a mask",
    "mask": "Connect a mask with pixels above 0.5",
}
FROM_CROP = "Connect 'regions' of 'Crop Face', and the images from which it cropped the faces"

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), WEIGHTS.parent, endings=ENDINGS)


def parser_input() -> io.Input:
    return MDiTFaceParser.Input(
        "parser", optional=True,
        tooltip="Parser from 'Load Face Parser'. Unconnected: the small bundled parser, which works on faces of the "
                "bundled model and is unreliable on photographs.")


def units_input() -> io.Input:
    return io.Combo.Input("units", options=list(UNITS), default=UNITS[0], optional=True, advanced=True,
                          tooltip="Unit of the boxes: pixels, fractions of the image (0 to 1) or thousandths (0 to "
                                  "1000). auto: fractions if all numbers are small, otherwise pixels. SEGS know their "
                                  "unit.")


def order_input() -> io.Input:
    return io.Combo.Input("order", options=list(SORTING), default=next(iter(SORTING)), optional=True, advanced=True,
                          tooltip="Order of the boxes in each image.")


class LoadFaceParser(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadFaceParser",
            display_name="Load Face Parser",
            category=menu.PHOTOGRAPHS,
            description="Loads a network that finds the 19 classes of a face. The format is detected from the file: "
                        "published Segformer or BiSeNet weights, or the pack's own parser.",
            search_aliases=["face parsing", "segformer", "BiSeNet", "face segmentation model"],
            inputs=[
                io.Combo.Input("parser_name", options=list_files(FOLDER, endings=ENDINGS), default=WEIGHTS.name,
                               tooltip="File from models/face_parsing, or the bundled file. A Segformer needs its "
                                       "config.json in the same folder."),
            ],
            outputs=[MDiTFaceParser.Output(display_name="parser",
                                           tooltip="Face parser, for 'Parse Face' and 'Preview Label Map'.")],
        )

    @classmethod
    def validate_inputs(cls, parser_name: str | None) -> bool | str:
        return check_file(parser_name, "parser_name", FOLDER, endings=ENDINGS)

    @classmethod
    def execute(cls, parser_name) -> io.NodeOutput:
        return io.NodeOutput(host.load_patched_parser(find_file(parser_name, "parser_name", FOLDER, endings=ENDINGS)))


class ParseFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ParseFace",
            display_name="Parse Face",
            category=menu.PHOTOGRAPHS,
            description="Finds the classes of a face in an image and returns them as a label map. Parsers expect one "
                        "face that fills most of the image: crop the face first with 'Crop Face'.",
            search_aliases=["face parsing", "photo to label map", "photo to mask", "face segmentation", "BiSeNet"],
            inputs=[
                io.Image.Input("image", tooltip="Image of a face, or a batch of images, of any size."),
                parser_input(),
            ],
            outputs=[
                label_map_output(),
                io.Mask.Output(display_name="confidence", tooltip="Probability of the predicted class, per pixel."),
            ],
        )

    @classmethod
    def execute(cls, image, parser=None) -> io.NodeOutput:
        labels, confidence = (parser or host.recall_parser()).parse(image)
        return io.NodeOutput(to_image(labels), confidence)


class CropFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_CropFace",
            display_name="Crop Face",
            category=menu.PHOTOGRAPHS,
            description="Crops faces from images as padded squares, the form that face parsers and face models expect. "
                        "'Paste Face' puts the faces back.",
            search_aliases=["face crop", "face detailer", "bbox crop", "crop and stitch"],
            inputs=[
                io.Image.Input("image", tooltip="Image, or a batch of images."),
                io.Int.Input("index", default=0, min=-1, max=255,
                             tooltip="Face to crop in each image, in the chosen order: 0 is the first, 1 the next. "
                                     "-1: all faces."),
                io.Float.Input("context", default=0.6, min=0.0, max=2.0, step=0.05,
                               tooltip="Padding on each side, as a fraction of the longer side of the box. 0.6 "
                                       "includes hair and neck around the box of a face detector."),
                io.Int.Input("size", default=512, min=64, max=LARGEST, step=8,
                             tooltip="Side of the cropped squares in pixels."),
                io.MultiType.Input("bboxes", BOXES, optional=True,
                                   tooltip="Boxes of the faces, from 'Detect Face Landmarks (MediaPipe)', 'SAM3 "
                                           "Detect' or 'Create Bounding Boxes', or SEGS."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Mask of the face, instead of boxes: one mask for each image or one for all."),
                io.Boolean.Input("keep_pixels", default=False, optional=True, advanced=True,
                                 tooltip="Enlarges 'size' to the largest square, so that no face loses pixels. At most "
                                         "4096 pixels."),
                units_input(),
                order_input(),
                missing_input("Images without the chosen face: an error, or images that pass through. 'Paste Face' "
                              "then returns them unchanged."),
                io.MultiType.Input("tilt", [FaceLandmarks, PoseKeypoints, io.Image], optional=True,
                                   tooltip="Landmarks, key points or label maps of the images. Their eyes show how far "
                                           "each face is tilted, and the face is cropped upright. Unconnected: faces "
                                           "stay tilted."),
                io.Image.Input("label_map", optional=True,
                               tooltip="Label maps of the images, cropped with the faces without mixed colours."),
            ],
            outputs=[
                io.Image.Output(display_name="faces", tooltip="Cropped squares, image by image."),
                io.BoundingBox.Output(display_name="regions",
                                      tooltip="Positions of the squares in the images, for 'Paste Face'."),
                io.String.Output(display_name="report", tooltip="Side of each square in the image and after cropping, "
                                                                "and the faces that lost pixels."),
                io.Image.Output(display_name="label_maps", tooltip="Label maps of the cropped squares. Needs the input "
                                                                   "'label_map'."),
            ],
        )

    @classmethod
    def execute(cls, image, index=0, context=0.6, size=512, bboxes=None, mask=None, keep_pixels=False, units=UNITS[0],
                order="largest first", missing="error", tilt=None, label_map=None) -> io.NodeOutput:
        boxes = find_faces(image, bboxes, mask, units)
        if missing == "error":
            check_faces(boxes, index, "mask" if bboxes is None else "bboxes")
        boxes = region.choose_faces(boxes, index, order, missing != "error")
        notes = []
        if tilt is not None:
            boxes, notes = set_upright(boxes, tilt, image.shape[1:3])
        squares = [[region.expand_to_square(box, context) for box in found] for found in boxes]
        if keep_pixels:
            size = region.find_side(squares, size, LARGEST)
        faces = label_maps = ExecutionBlocker(None)  # the nodes that draw the faces do not run, and nothing is wrong
        if any(squares):
            faces = region.crop_faces(image, squares, size)
            label_maps = ExecutionBlocker("label_map: connect the label maps of the images to 'Crop Face'")
        if label_map is not None and any(squares):
            label_maps = region.crop_faces(fit_label_maps(label_map, image), squares, size, smooth=False)
        regions = [[square.to_box() for square in places] for places in squares]
        doubts = [] if mask is None else [f"mask: it {doubt}" for doubt in find_doubts(mask)]
        report = "\n".join([*region.describe_crops(squares, size), *notes, *doubts])
        return io.NodeOutput(faces, regions, report, label_maps)


def find_faces(image: torch.Tensor, bboxes, mask: torch.Tensor | None, units: str) -> list[list[dict]]:
    """The boxes of each image of a batch, from the one of both inputs that is connected."""
    if (bboxes is None) == (mask is None):
        raise ValueError("bboxes: 'Crop Face' needs either boxes or a mask of the face, and not both. Connect one of "
                         "the two inputs")
    height, width = image.shape[1:3]
    if bboxes is None:
        return match_images(region.find_boxes(mask, height, width), len(image), "mask")
    return match_images(read_boxes(bboxes, (width, height), "bboxes", units), len(image), "bboxes")


def check_faces(boxes: list[list[dict]], index: int, source: str) -> None:
    """Raises ValueError, naming the input `source`, if no image has a face, or one has none and a face is asked of it.

    boxes, index: as in `choose_faces`.
    """
    lacking = [number for number, found in enumerate(boxes) if not found]
    if lacking and (index >= 0 or len(lacking) == len(boxes)):
        raise ValueError(f"{source}: there is no face in image {lacking[0]}. {REMEDIES[source]}, or choose pass "
                         "through in 'missing'")


def set_upright(boxes: list[list[dict]], source, size: tuple[int, int]) -> tuple[list[list[dict]], list[str]]:
    """The boxes with the tilt of their faces, and a line for each face without eyes."""
    turned = []
    notes = []
    for number, (found, tilts) in enumerate(zip(boxes, find_tilts(source, boxes, size))):
        turned.append([{**box, "tilt": tilt or 0.0} for box, tilt in zip(found, tilts)])
        notes += [f"image {number}, face {i}: no eyes found, so it is not set upright"
                  for i, tilt in enumerate(tilts) if tilt is None]
    return turned, notes


def fit_label_maps(label_map: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """One label map (H, W, C) for each image, in its size."""
    if len(label_map) not in (1, len(image)):
        raise ValueError(f"label_map: there are {len(label_map)} label maps for {len(image)} images. Connect one for "
                         "each image, or one for all")
    height, width = image.shape[1:3]
    fitted = torch.stack([region.resize(labels, width, height, smooth=False) for labels in label_map])
    return fitted.expand(len(image), -1, -1, -1)


class ConvertBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_ConvertBoxes",
            display_name="Convert Boxes",
            category=menu.PHOTOGRAPHS,
            description="Converts boxes between ComfyUI's bounding boxes, SEGS of the Impact Pack, and lists of left, "
                        "top, right and bottom. Class names and scores stay. The boxes are sorted and their unit is "
                        "converted to pixels.",
            search_aliases=["SEGS", "bbox", "xyxy", "Impact Pack", "bounding box", "detector"],
            inputs=[
                io.Image.Input("image", tooltip="Images in which the boxes were found."),
                io.MultiType.Input("boxes", BOXES, tooltip="Boxes or SEGS from a detector, or regions of 'Crop Face'."),
                units_input(),
                order_input(),
                io.Float.Input("context", default=1.0, min=0.0, max=4.0, step=0.05, optional=True, advanced=True,
                               tooltip="Padding of the crop regions in 'segs' on each side, as a fraction of the box. "
                                       "1: three times the box, the Impact Pack's default."),
            ],
            outputs=[
                io.BoundingBox.Output(display_name="bboxes", tooltip="Boxes of each image, for 'Crop Face' and "
                                                                     "ComfyUI's nodes."),
                io.SEGS.Output(display_name="segs", is_output_list=True,
                               tooltip="SEGS of each image, for the Impact Pack. The mask of a segment is its box."),
                io.BBOX.Output(display_name="corners", tooltip="Left, top, right and bottom of each box, for nodes "
                                                               "with lists of boxes. Of one image: one list."),
            ],
        )

    @classmethod
    def execute(cls, image, boxes, units=UNITS[0], order="largest first", context=1.0) -> io.NodeOutput:
        height, width = image.shape[1:3]
        found = match_images(read_boxes(boxes, (width, height), "boxes", units), len(image), "boxes")
        found = region.choose_faces(found, -1, order, passes=True)
        segs = [make_segs(some, picture, context) for some, picture in zip(found, image)]
        corners = [[list_corners(box) for box in some] for some in found]
        return io.NodeOutput(found, segs, corners if len(corners) > 1 else corners[0])


class PasteFace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PasteFace",
            display_name="Paste Face",
            category=menu.PHOTOGRAPHS,
            description="Pastes faces from 'Crop Face' back into their images, as squares or in the shape of masks. "
                        "Where squares overlap, each pixel takes the face whose middle is nearer.",
            search_aliases=["face paste", "uncrop", "stitch", "face detailer", "crop and stitch"],
            inputs=[
                io.Image.Input("image", tooltip="Images that were connected to 'Crop Face'."),
                io.Image.Input("faces", lazy=True,
                               tooltip="All faces from 'Crop Face', in the same order and of any size."),
                io.BoundingBox.Input("regions", force_input=True,
                                     tooltip="Positions of the faces in the images, from 'Crop Face'."),
                io.Float.Input("feather", default=0.1, min=0.0, max=0.5, step=0.01,
                               tooltip="Width of the soft border, as a fraction of each side. Sides at the border of "
                                       "the image do not fade."),
                io.Boolean.Input("label_map", default=False, advanced=True,
                                 tooltip="Label-map mode: hard borders and no mixed colours."),
                io.Mask.Input("mask", optional=True, lazy=True,
                              tooltip="Shape to paste in each square, such as the hair and skin from 'Masks of Face "
                                      "Parts': one mask for each face or one for all. Unconnected: the whole square."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="Images with the pasted faces. Their alpha "
                                                                   "channel stays.")],
        )

    @classmethod
    def check_lazy_status(cls, regions, **inputs) -> list[str]:
        """Without regions nothing is pasted, so the faces are not even drawn."""
        if not any(list_boxes(regions, "regions")):
            return []
        return [name for name in ("faces", "mask") if name in inputs and inputs[name] is None]

    @classmethod
    def execute(cls, image, faces, regions, feather=0.1, label_map=False, mask=None) -> io.NodeOutput:
        boxes = match_images(read_regions(regions, image.shape[1:3]), len(image), "regions")
        count = sum(map(len, boxes))
        if not count:
            return io.NodeOutput(image)
        given = 0 if faces is None else len(faces)
        if count != given:
            raise ValueError(f"faces: there are {given} faces for {count} regions. Connect all faces from 'Crop Face', "
                             "in the same order")
        feather = 0 if label_map else feather
        image = image.clone()
        prepared = zip(faces[..., :3], list_masks(mask, count))
        if label_map and mask is not None:
            tell_of_soft_masks(mask)
        for canvas, found in zip(image, boxes):
            patches = [make_patch(canvas, Region.of_box(box), *next(prepared), feather, label_map) for box in found]
            pasting.paste(canvas, patches, feather)
        return io.NodeOutput(image)


def read_regions(regions, size: tuple[int, int]) -> list[list[dict]]:
    """The squares of each image of a size. Raises ValueError for one without a pixel, or outside of the image."""
    height, width = size
    boxes = read_boxes(regions, (width, height), "regions", "pixels", FROM_CROP)
    for box in itertools.chain(*boxes):
        if Region.of_box(box).is_empty:
            raise ValueError(f"regions: the region {shorten(box)} has no pixel. {FROM_CROP}")
    return boxes


def list_masks(mask: torch.Tensor | None, count: int) -> list[torch.Tensor | None]:
    """One mask (h, w) for each face, or None for each."""
    if mask is None:
        return [None] * count
    if not mask.any():
        raise ValueError("mask: the mask is empty, so nothing would be pasted. 'Load Image' gives an empty mask for an "
                         "image without transparency. Connect another mask, or none")
    masks = list(mask.reshape(-1, *mask.shape[-2:]))
    if len(masks) not in (1, count):
        raise ValueError(f"mask: there are {len(masks)} masks for {count} faces. Connect one mask for each face, or "
                         "one for all")
    return masks if len(masks) == count else masks * count


def tell_of_soft_masks(mask: torch.Tensor) -> None:
    """Writes to the log which masks of a batch label-map mode cuts off at 0.5 far from their edges."""
    for number, one in enumerate(mask.reshape(-1, *mask.shape[-2:]), 1):
        if is_soft(one):
            logging.info("mask: mask %d %s", number, SOFT)


def make_patch(canvas: torch.Tensor, square: Region, face: torch.Tensor, mask: torch.Tensor | None, feather: float,
               label_map: bool) -> pasting.Patch:
    """A face (h, w, 3) in the shape of its mask, at its square in an image (H, W, C)."""
    patch = pasting.make_patch(face.to(canvas).float(), square, canvas.shape[:2], feather, not label_map)
    return patch if mask is None else pasting.apply_mask(patch, mask, square, feather, not label_map)


class LabelMapFromLandmarks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LabelMapFromLandmarks",
            display_name="Face Landmarks to Label Map",
            category=menu.LABEL_MAPS,
            description="Paints skin, nose, brows, eyes, lips and mouth from the landmarks of 'Detect Face Landmarks "
                        "(MediaPipe)'. Hair, ears, neck and clothes have no landmarks: take them from a label map or "
                        "from masks.",
            search_aliases=["mediapipe", "face mesh", "landmarks to label map", "face parts"],
            inputs=[
                FaceLandmarks.Input("face_landmarks",
                                    tooltip="Face landmarks from 'Detect Face Landmarks (MediaPipe)'."),
                io.Image.Input("label_map", optional=True,
                               tooltip="Label map to paint the faces on. Unconnected: background."),
            ],
            outputs=[label_map_output()],
        )

    @classmethod
    def execute(cls, face_landmarks, label_map=None) -> io.NodeOutput:
        size, frames = read_landmarks(face_landmarks, "face_landmarks")
        background = torch.zeros((1, *size), dtype=torch.uint8) if label_map is None else read_and_tell(label_map)
        if background.shape[1:] != size or len(background) not in (1, len(frames)):
            raise ValueError(f"label_map: the input has {len(background)} label maps of height and width "
                             f"{tuple(background.shape[1:])}, but the landmarks are of {len(frames)} images of {size}. "
                             "Give the label map the size of the images")
        labels = from_landmarks(frames, background).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(to_image(labels))


NODES = (LoadFaceParser, ParseFace, CropFace, PasteFace, ConvertBoxes, LabelMapFromLandmarks)
