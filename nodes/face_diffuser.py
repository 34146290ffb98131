"""Face-diffuser: a scene model and a subject model share one sampling run, fused by saliency."""
from __future__ import annotations

from pathlib import Path

import torch

import folder_paths
from comfy_api.latest import io, ui

from ..mdit.face_diffuser.guider import FusionGuider
from ..mdit.face_diffuser.marker import MARKER, tokenize
from ..mdit.face_diffuser.pair import check_effect
from ..mdit.face_diffuser.saliency import KERNEL, Prior
from ..mdit.face_diffuser.stages import Borders, leading_sigmas
from ..mdit.face_diffuser.strip import strip
from ..mdit.face_diffuser.weights import load
from ..mdit.labelmap import to_indices
from .files import add_folder, find_file, list_files
from .loading import DTYPES
from .types import FaceDiffuserSubject

CATEGORY = "MDiTFace/fusion"
FOLDER, ENDINGS = "face_diffuser", (".safetensors", ".bin")
MOST_PICTURES = 4  # that the subject model was trained with
SCALE = dict(default=5.0, min=0.1, max=100.0, step=0.1, round=0.01)

add_folder(FOLDER, Path(folder_paths.models_dir, FOLDER), endings=ENDINGS)


def as_mask(region):
    """A MASK of any shape, or a label map of which all but the background counts, as (B, h, w)."""
    if region is None:
        return None
    if region.ndim == 4 and region.shape[-1] in (3, 4):
        try:
            return (to_indices(region) > 0).float()
        except ValueError as error:
            raise ValueError(f"region: {str(error).removeprefix('label_map: ')}") from error
    if region.ndim < 2 or 0 in region.shape or not region.isfinite().all():
        raise ValueError(f"region: a mask of shape {tuple(region.shape)} cannot be read, or has values not finite: "
                         "connect a MASK or a label map")
    return region.reshape(-1, *region.shape[-2:])


class SaliencyFusionGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_SaliencyFusionGuider",
            display_name="Guide by Saliency Fusion",
            category=CATEGORY,
            description="Two models in one run, for SamplerCustomAdvanced: first the scene model alone, then both, "
                        "where in each cell the one whose condition matters more there decides, then the subject "
                        "model alone. Any two models of one latent space.",
            search_aliases=["Face-diffuser", "saliency-adaptive noise fusion", "SNF", "two models", "mix models",
                            "cfg guider"],
            inputs=[
                io.Model.Input("scene", tooltip="The model that knows scenes."),
                io.Model.Input("subject", tooltip="The model that knows the person. It reads the same latents: both "
                                                  "SD1.5, both SDXL, both SD3 or both FLUX."),
                io.Conditioning.Input("scene_positive", tooltip="Text for the scene model."),
                io.Conditioning.Input("scene_negative", tooltip="Its negative; empty in the published code."),
                io.Conditioning.Input("subject_positive", tooltip="What the subject model draws: with Face-diffuser "
                                                                  "the conditioning with the reference."),
                io.Conditioning.Input("subject_base", tooltip="What that is compared with: with Face-diffuser the text "
                                                              "without the reference, with other models a negative."),
                io.Float.Input("scene_cfg", tooltip="Guidance of the scene model. It also weighs its saliency.",
                               **SCALE),
                io.Float.Input("subject_cfg", tooltip="Guidance of the subject model. It also weighs its saliency.",
                               **SCALE),
                io.Float.Input("scene_end", default=0.3, min=0.0, max=1.0, step=0.01,
                               tooltip="Part of the steps after which both models run. 0: no steps of the scene model "
                                       "alone."),
                io.Float.Input("fusion_end", default=0.6, min=0.0, max=1.0, step=0.01,
                               tooltip="Part of the steps after which the subject model runs alone. 1: fused to the "
                                       "end."),
                io.Int.Input("smoothing", default=KERNEL, min=1, max=32, optional=True, advanced=True,
                             tooltip="Side of the box, in latent cells, that saliency is averaged over. 4 in the "
                                     "published code."),
                io.MultiType.Input("region", types=[io.Mask, io.Image], optional=True,
                                   tooltip="Where the subject model may win in the fused steps: a mask, or a label "
                                           "map, of which all but the background counts. Stretched to the picture."),
                io.Int.Input("feather", default=0, min=0, max=64, optional=True, advanced=True,
                             tooltip="Latent cells over which the region's edge fades, to each side."),
                io.Float.Input("bias", default=0.0, min=-20.0, max=20.0, step=0.05, optional=True, advanced=True,
                               tooltip="Added to the logarithm of the subject's saliency: above 0 it wins more cells, "
                                       "below 0 fewer."),
                io.Model.Input("subject_base_model", optional=True,
                               tooltip="For references that a node puts into the subject MODEL and not into the "
                                       "conditioning: the same model from before that node, for the comparison."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced and Preview "
                                                                     "Saliency.")],
        )

    @classmethod
    def execute(cls, scene, subject, scene_positive, scene_negative, subject_positive, subject_base, scene_cfg=5.0,
                subject_cfg=5.0, scene_end=0.3, fusion_end=0.6, smoothing=KERNEL, region=None, feather=0, bias=0.0,
                subject_base_model=None) -> io.NodeOutput:
        if subject_base_model in (None, subject):
            check_effect(subject_positive, subject_base)
        prior = Prior(as_mask(region), feather, bias)
        guider = FusionGuider(scene, subject, subject_base_model, Borders(scene_end, fusion_end), prior, smoothing)
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
            category=CATEGORY,
            description="Shows how a run was fused: for each fused step the saliency of both models, on one scale, and "
                        "in white where the subject model won, with its share of the cells.",
            search_aliases=["saliency map", "win mask", "Face-diffuser", "SNF", "view fusion"],
            is_output_node=True,
            inputs=[
                io.Guider.Input("guider", tooltip="From Guide by Saliency Fusion."),
                io.Latent.Input("latent", tooltip="The latent that SamplerCustomAdvanced made with this guider: there "
                                                  "is nothing to show before."),
            ],
            outputs=[
                io.Image.Output(display_name="strip", tooltip="A column for each fused step; one picture for each "
                                                              "latent of the batch."),
                io.Mask.Output(display_name="masks", tooltip="Where the subject model won, step after step, in latent "
                                                             "cells, for the first latent of the batch."),
                io.String.Output(display_name="report", tooltip="Steps of each stage, and the share of cells that the "
                                                                "subject model won at each fused step."),
            ],
        )

    @classmethod
    def execute(cls, guider, latent) -> io.NodeOutput:
        if not isinstance(guider, FusionGuider):
            raise ValueError("guider: it comes from another node: connect 'Guide by Saliency Fusion'")
        record = guider.record
        picture, report = strip(record), str(record)
        masks = torch.stack([record.contests[step].won[0, 0] for step in sorted(record.contests)]).float()
        return io.NodeOutput(picture, masks, report,
                             ui={**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (report,)})


class LoadFaceDiffuser(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_LoadFaceDiffuser",
            display_name="Load Face-diffuser",
            category=CATEGORY,
            description="Loads one of Face-diffuser's two published files: the subject model (SDM), with the encoder "
                        "of its reference pictures, or the scene model (TDM). Which it is shows in the file.",
            search_aliases=["Face-diffuser loader", "SDM", "TDM", "subject model", "FastComposer"],
            inputs=[
                io.Combo.Input("weights_name", options=list_files(FOLDER, endings=ENDINGS),
                               tooltip="A file from models/face_diffuser. Both published files have the same name: "
                                       "keep their folders SDM and TDM."),
                io.Combo.Input("weight_dtype", options=list(DTYPES), default="default", advanced=True,
                               tooltip="Number type of the UNet's weights. 'default' lets the host choose."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The Stable Diffusion 1.5 UNet of the file."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its VAE."),
                FaceDiffuserSubject.Output(display_name="subject", tooltip="For Encode Subject; empty for the scene "
                                                                           "model's file."),
            ],
        )

    @classmethod
    def execute(cls, weights_name, weight_dtype="default") -> io.NodeOutput:
        return io.NodeOutput(*load(find_file(weights_name, "weights_name", FOLDER), DTYPES[weight_dtype],
                                   folder_paths.get_folder_paths("embeddings")))


class SubjectConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def picture(number: int) -> io.Input:
            return io.Image.Input(f"image_{number}", optional=number > 1,
                                  tooltip=f"Picture for marker {number}, whole and in any size; a batch serves several "
                                          "markers in turn.")
        return io.Schema(
            node_id="MDiT_SubjectConditioning",
            display_name="Encode Subject",
            category=CATEGORY,
            description=f"Text in which a noun before each {MARKER} takes the looks of a picture. Gives the text with "
                        "the pictures and the text alone.",
            search_aliases=["Face-diffuser", "reference image", "person", "identity", "FastComposer"],
            inputs=[
                io.Clip.Input("clip", tooltip="CLIP of the subject model's file."),
                FaceDiffuserSubject.Input("subject", tooltip="From Load Face-diffuser, of the subject model's file."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, default=f"a man {MARKER} in a garden",
                                tooltip=f"The prompt, with {MARKER} after each noun that has a picture."),
                *map(picture, range(1, MOST_PICTURES + 1)),
                io.Int.Input("object_resolution", default=512, min=64, max=2048, step=8, optional=True, advanced=True,
                             tooltip="Side that pictures are stretched to before the encoder's own 224. 512 in the "
                                     "published script."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="subject", tooltip="The text with the pictures: subject_positive "
                                                                       "of Guide by Saliency Fusion."),
                io.Conditioning.Output(display_name="text", tooltip="The text alone: subject_base and scene_positive "
                                                                    "of Guide by Saliency Fusion."),
            ],
        )

    @classmethod
    def execute(cls, clip, subject, text, image_1, image_2=None, image_3=None, image_4=None,
                object_resolution=512) -> io.NodeOutput:
        if subject is None:
            raise ValueError("subject: the scene model's file (TDM) has no encoder for pictures: load "
                             "SDM/pytorch_model.bin")
        tokens, positions = tokenize(clip, text)
        batches = [batch for batch in (image_1, image_2, image_3, image_4) if batch is not None]
        pictures = [picture for batch in batches for picture in batch]
        if len(pictures) != len(positions) or len(pictures) > MOST_PICTURES:
            raise ValueError(f"image_1: {len(pictures)} pictures for {len(positions)} {MARKER} in the text: give each "
                             f"marker one picture, {MOST_PICTURES} at most")
        plain = clip.encode_from_tokens_scheduled(tokens)
        vectors = subject.encode(pictures, object_resolution)  # (N, E); last, so that the text does not push it out
        known = [[subject.fuse(encoded, positions, vectors), extra.copy()] for encoded, extra in plain]
        return io.NodeOutput(known, plain)


class FaceDiffuserScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_FaceDiffuserScheduler",
            display_name="Schedule Face-diffuser Steps",
            category=CATEGORY,
            description="The time steps that Face-diffuser's code visits: 50 steps are 981, 961, ..., 1. The host's "
                        "ddim_uniform does the same only where the number of steps divides 1000.",
            search_aliases=["sigmas", "DDIM", "PNDM", "leading", "scheduler"],
            inputs=[
                io.Model.Input("model", tooltip="Scene or subject model: its noise schedule is read."),
                io.Int.Input("steps", default=50, min=1, max=999, tooltip="Number of steps."),
                io.Boolean.Input("to_clean", default=True, optional=True, advanced=True,
                                 tooltip="Ends without noise, as the host's schedules do. Off: at the noise of time "
                                         "step 0, as in the published code, where a trace of it stays in the latent."),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced, with the sampler "
                                                                     "'euler' for DDIM or 'ipndm' for what is nearest "
                                                                     "to the published code.")],
        )

    @classmethod
    def execute(cls, model, steps, to_clean=True) -> io.NodeOutput:
        return io.NodeOutput(leading_sigmas(model.get_model_object("model_sampling"), steps, to_clean))


NODES = (LoadFaceDiffuser, SubjectConditioning, SaliencyFusionGuider, FaceDiffuserScheduler, PreviewSaliency)
