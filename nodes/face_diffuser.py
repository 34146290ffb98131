"""Face-diffuser nodes: a scene model and a subject model share one sampling run, fused by saliency."""
from __future__ import annotations

from pathlib import Path

import torch

import folder_paths
from comfy_api.latest import io, ui

from ..mdit.face_diffuser.guider import FusionGuider
from ..mdit.face_diffuser.marker import MARKER, tokenize
from ..mdit.face_diffuser.pair import check_effect
from ..mdit.face_diffuser.saliency import KERNEL, Prior
from ..mdit.face_diffuser.stages import Borders, compute_leading_sigmas
from ..mdit.face_diffuser.strip import draw_strip
from ..mdit.face_diffuser.weights import load_face_diffuser
from ..mdit.shared.conds import check_conditioning
from . import menu
from .files import add_folder, check_file, find_file, list_files
from .labelmap import read_and_tell
from .loading import DTYPES
from .types import FaceDiffuserSubject

FOLDER = "face_diffuser"
ENDINGS = (".safetensors", ".bin")
MAX_IMAGES = 4  # the subject model was trained with up to four persons
SCALE = dict(default=5.0, min=0.1, max=100.0, step=0.1, round=0.01)

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), endings=ENDINGS)


def read_region(region: torch.Tensor | None) -> torch.Tensor | None:
    """A MASK of any shape, or the area of a label map that is not background, as (B, h, w)."""
    if region is None:
        return None
    if region.ndim == 4 and region.shape[-1] in (3, 4):
        try:
            return (read_and_tell(region) > 0).float()
        except ValueError as error:
            raise ValueError(f"region: {str(error).removeprefix('label_map: ')}") from error
    if region.ndim < 2 or 0 in region.shape or not region.isfinite().all():
        raise ValueError(f"region: a mask of shape {tuple(region.shape)} cannot be read, or has values that are not "
                         "finite: connect a MASK or a label map")
    if not region.any():
        raise ValueError("region: the mask is empty, so the subject model could win nowhere. 'Load Image' gives an "
                         "empty mask for an image without transparency. Connect another mask, or none")
    return region.reshape(-1, *region.shape[-2:])


class SaliencyFusionGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_SaliencyFusionGuider",
            display_name="Two-Model Guider (Saliency)",
            category=menu.FACE_DIFFUSER,
            description="Runs two models in one sampling run, for 'SamplerCustomAdvanced'. The scene model starts "
                        "alone, then both models are fused by saliency, then the subject model finishes alone. Works "
                        "with any two models that share a latent space.",
            search_aliases=["Face-diffuser", "saliency-adaptive noise fusion", "SNF", "two models", "mix models",
                            "cfg guider"],
            inputs=[
                io.Model.Input("scene", tooltip="Model that draws the scene."),
                io.Model.Input("subject", tooltip="Model that draws the person. Both models must share a latent space: "
                                                  "both SD1.5, both SDXL, both SD3 or both FLUX."),
                io.Conditioning.Input("scene_positive", tooltip="Prompt for the scene model."),
                io.Conditioning.Input("scene_negative", tooltip="Negative prompt for the scene model. Empty in the "
                                                                "published code."),
                io.Conditioning.Input("subject_positive", tooltip="Prompt for the subject model. For Face-diffuser: "
                                                                  "the conditioning with the reference images."),
                io.Conditioning.Input("subject_base", tooltip="Conditioning that subject_positive is compared with. "
                                                              "For Face-diffuser: the text without the images; for "
                                                              "other models: a negative prompt."),
                io.Float.Input("scene_cfg", tooltip="Guidance scale of the scene model, which also scales the saliency "
                                                    "of the model.", **SCALE),
                io.Float.Input("subject_cfg", tooltip="Guidance scale of the subject model, which also scales the "
                                                      "saliency of the model.", **SCALE),
                io.Float.Input("scene_end", default=0.3, min=0.0, max=1.0, step=0.01,
                               tooltip="Fraction of the steps at which fusion starts. 0 skips the steps of the scene "
                                       "model alone."),
                io.Float.Input("fusion_end", default=0.6, min=0.0, max=1.0, step=0.01,
                               tooltip="Fraction of the steps after which the subject model runs alone. 1 fuses to "
                                       "the last step."),
                io.Int.Input("smoothing", default=KERNEL, min=1, max=32, optional=True, advanced=True,
                             tooltip="Side of the box filter that smooths saliency, in latent cells. 4 in the "
                                     "published code."),
                io.MultiType.Input("region", types=[io.Mask, io.Image], optional=True,
                                   tooltip="Region where the subject model may win during fusion: a mask, or a label "
                                           "map (everything except background). The region is stretched to the "
                                           "latent."),
                io.Int.Input("feather", default=0, min=0, max=64, optional=True, advanced=True,
                             tooltip="Width over which the edge of the region fades on each side, in latent cells."),
                io.Float.Input("bias", default=0.0, min=-20.0, max=20.0, step=0.05, optional=True, advanced=True,
                               tooltip="Number added to the logarithm of the subject's saliency. Above 0 the subject "
                                       "model wins more cells, below 0 fewer."),
                io.Model.Input("subject_base_model", optional=True,
                               tooltip="Subject model without the reference, for nodes that add a reference to the "
                                       "MODEL. Connect the model from before the node that adds the reference."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="Guider for 'SamplerCustomAdvanced' and 'Preview "
                                                                     "Saliency'.")],
        )

    @classmethod
    def execute(cls, scene, subject, scene_positive, scene_negative, subject_positive, subject_base, scene_cfg=5.0,
                subject_cfg=5.0, scene_end=0.3, fusion_end=0.6, smoothing=KERNEL, region=None, feather=0, bias=0.0,
                subject_base_model=None) -> io.NodeOutput:
        given = {"scene_positive": scene_positive, "scene_negative": scene_negative,
                 "subject_positive": subject_positive, "subject_base": subject_base}
        for source, conditioning in given.items():
            check_conditioning(conditioning, source)
        if subject_base_model in (None, subject):
            check_effect(subject_positive, subject_base)
        guider = FusionGuider(scene, subject, subject_base_model, borders=Borders(scene_end, fusion_end),
                              prior=Prior(read_region(region), feather, bias), kernel=smoothing)
        guider.set_conds(scene_positive, scene_negative)
        guider.subject.set_conds(subject_positive, subject_base)
        guider.set_scales(scene_cfg, subject_cfg)
        return io.NodeOutput(guider)


class PreviewSaliency(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PreviewSaliency",
            display_name="Preview Saliency",
            category=menu.FACE_DIFFUSER,
            description="Shows how a run was fused. Each fused step shows the saliency of both models, the cells "
                        "that the subject model won (white), and their fraction.",
            search_aliases=["saliency map", "win mask", "Face-diffuser", "SNF", "view fusion"],
            is_output_node=True,
            inputs=[
                io.Guider.Input("guider", tooltip="Guider from 'Two-Model Guider (Saliency)'."),
                io.Latent.Input("latent", tooltip="Latent that 'SamplerCustomAdvanced' produced with this guider. The "
                                                  "connection makes this node wait for the run."),
            ],
            outputs=[
                io.Image.Output(display_name="strip", tooltip="Image with a column for each fused step; one image for "
                                                              "each latent of the batch."),
                io.Mask.Output(display_name="masks", tooltip="Cells that the subject model won: one mask for each "
                                                             "fused step, for the first latent of the batch."),
                io.String.Output(display_name="report", tooltip="Number of steps in each stage, and the fraction of "
                                                                "cells that the subject model won at each fused "
                                                                "step."),
            ],
        )

    @classmethod
    def execute(cls, guider, latent) -> io.NodeOutput:
        if not isinstance(guider, FusionGuider):
            raise ValueError("guider: it comes from another node: connect 'Two-Model Guider (Saliency)'")
        record = guider.record
        image = draw_strip(record)
        report = str(record)
        masks = torch.stack([maps.subject_mask[0, 0] for _, maps in sorted(record.fused_steps.items())]).float()
        preview = ui.PreviewImage(image, cls=cls).as_dict()
        return io.NodeOutput(image, masks, report, ui={**preview, "text": (report,)})


class LoadFaceDiffuser(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadFaceDiffuser",
            display_name="Load Face-diffuser",
            category=menu.FACE_DIFFUSER,
            description="Loads one of the two published files of Face-diffuser: the subject model (SDM) with its "
                        "image encoder, or the scene model (TDM). The kind is detected from the file.",
            search_aliases=["Face-diffuser loader", "SDM", "TDM", "subject model", "FastComposer"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(FOLDER, endings=ENDINGS),
                               tooltip="File in models/face_diffuser. Both published files have the same name: keep "
                                       "their folders SDM and TDM."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Data type of the UNet weights. default: ComfyUI chooses."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Stable Diffusion 1.5 UNet of the file."),
                io.Clip.Output(display_name="clip", tooltip="Text encoder of the file."),
                io.Vae.Output(display_name="vae", tooltip="VAE of the file."),
                FaceDiffuserSubject.Output(display_name="subject", tooltip="Image encoder for 'Encode Subject'. Empty "
                                                                           "for the scene model's file."),
            ],
        )

    @classmethod
    def validate_inputs(cls, weights_name: str | None) -> bool | str:
        return check_file(weights_name, "weights_name", FOLDER, endings=ENDINGS)

    @classmethod
    def execute(cls, weights_name, weight_dtype="default") -> io.NodeOutput:
        path = find_file(weights_name, "weights_name", FOLDER, endings=ENDINGS)
        loaded = load_face_diffuser(path, DTYPES[weight_dtype], folder_paths.get_folder_paths("embeddings"))
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, loaded.subject)


def images_input() -> io.Input:
    image = io.Image.Input("image", tooltip="Whole image of one person, in any size. A batch counts as several images.")
    names = [f"image_{number}" for number in range(1, MAX_IMAGES + 1)]
    return io.Autogrow.Input("images", template=io.Autogrow.TemplateNames(image, names, min=1),
                             tooltip=f"One image for each {MARKER}, in the order of the text. A new slot appears when "
                                     "the last slot is connected.")


class SubjectConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_SubjectConditioning",
            display_name="Encode Subject",
            category=menu.FACE_DIFFUSER,
            description=f"Encodes a prompt in which each noun before {MARKER} takes the appearance of a person in an "
                        "image. Outputs the text with the images and the text alone.",
            search_aliases=["Face-diffuser", "reference image", "person", "identity", "FastComposer"],
            inputs=[
                io.Clip.Input("clip", tooltip="CLIP from the subject model's file."),
                FaceDiffuserSubject.Input("subject", tooltip="Image encoder from 'Load Face-diffuser', of the subject "
                                                             "model's file."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default=f"a man {MARKER} in a garden",
                                tooltip=f"Prompt with {MARKER} after each noun that has an image."),
                images_input(),
                io.Int.Input("object_resolution", default=512, min=64, max=2048, step=8, optional=True, advanced=True,
                             tooltip="Side in pixels to which images are resized first. The encoder then resizes "
                                     "images to 224 pixels. 512 in the published script."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="subject", tooltip="Text with the images, for subject_positive of "
                                                                       "'Two-Model Guider (Saliency)'."),
                io.Conditioning.Output(display_name="text", tooltip="Text alone, for subject_base and scene_positive "
                                                                    "of 'Two-Model Guider (Saliency)'."),
            ],
        )

    @classmethod
    def execute(cls, clip, subject, text, images: io.Autogrow.Type, object_resolution=512) -> io.NodeOutput:
        if subject is None:
            raise ValueError("subject: the scene model's file (TDM) has no image encoder: load SDM/pytorch_model.bin")
        if clip is None:
            raise ValueError("clip: the loaded file has no text encoder: connect the CLIP of 'Load Face-diffuser'")
        tokens, positions = tokenize(clip, text)
        batches = [images[name] for name in sorted(images) if images[name] is not None]
        given = [image for batch in batches for image in batch]
        if len(given) != len(positions) or len(given) > MAX_IMAGES:
            raise ValueError(f"images: {len(given)} images for {len(positions)} {MARKER} in the text: connect one "
                             f"image for each marker, {MAX_IMAGES} at most")
        plain = clip.encode_from_tokens_scheduled(tokens)
        vectors = subject.encode(given, object_resolution)  # (n, E); last, to keep the text encoder from evicting it
        fused = [[subject.fuse(encoded, positions, vectors), extra.copy()] for encoded, extra in plain]
        return io.NodeOutput(fused, plain)


class FaceDiffuserScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_FaceDiffuserScheduler",
            display_name="Face-diffuser Scheduler",
            category=menu.FACE_DIFFUSER,
            description="Makes the time steps of Face-diffuser's published code: 50 steps give 981, 961, ..., 1. "
                        "ComfyUI's ddim_uniform gives the same time steps only if the number of steps divides 1000.",
            search_aliases=["sigmas", "DDIM", "PNDM", "leading", "scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="Scene or subject model. The node reads the noise schedule of the "
                                                "model."),
                io.Int.Input("steps", default=50, min=1, max=999, tooltip="Number of steps."),
                io.Boolean.Input("to_clean", default=True, optional=True, advanced=True,
                                 tooltip="On: the schedule ends without noise, as ComfyUI's schedules do. Off: the "
                                         "schedule ends at time step 0, as in the published code, with a little noise "
                                         "left."),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="Noise levels for 'SamplerCustomAdvanced'. Use "
                                                                     "the sampler 'euler' for DDIM, or 'ipndm' to come "
                                                                     "closest to the published code.")],
        )

    @classmethod
    def execute(cls, model, steps, to_clean=True) -> io.NodeOutput:
        return io.NodeOutput(compute_leading_sigmas(model.get_model_object("model_sampling"), steps, to_clean))


NODES = (LoadFaceDiffuser, SubjectConditioning, SaliencyFusionGuider, FaceDiffuserScheduler, PreviewSaliency)
