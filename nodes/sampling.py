"""Nodes that sample with separate guidance for text and mask."""
from __future__ import annotations

import logging

import torch

import comfy.model_management
import comfy.samplers
import nodes
from comfy_api.latest import io

from ..mdit.mditface.guidance import DualGuider, Guidance
from ..mdit.mditface.sample import require_mdit, sample
from ..mdit.mditface.reader import CACHE_MODES, CacheOptions
from ..mdit.mditface.size import PRESETS, choose_size, find_config
from . import menu

DEFAULT = Guidance()
SCALE = dict(min=0.0, max=100.0, step=0.1, round=0.01)
TEXT_TIP = f"Guidance scale of the text. 1: no guidance. Recommended for the bundled model: {DEFAULT.text:g}."
MASK_TIP = ("Guidance scale of the mask. 1: no guidance, and two model evaluations per step instead of three. "
            f"Recommended for the bundled model: {DEFAULT.mask:g}.")
POSITIVE_TIP = "Conditioning with the text and the mask that the image follows."
NEGATIVE_TIP = "Conditioning with the text that the image avoids. An empty text is fine; a mask is not needed."
SIDE_TIP = "{} of the picture in pixels, instead of that of `size`. 0: it follows `size`, or the other side."


class PictureSize(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PictureSize",
            display_name="Picture Size (MDiT)",
            category=menu.START,
            description="Makes an empty latent in the shape of the label map, at the size that the model was trained "
                        "at. Other sizes are rounded to what the model takes. A warning tells, before the picture is "
                        "drawn, that a size is far above the trained one.",
            search_aliases=["empty latent", "resolution", "width and height", "aspect ratio", "image size"],
            inputs=[
                io.Model.Input("model", tooltip="Model from 'Load Face Model (MDiT)'. Its file has the trained size."),
                io.Image.Input("label_map", tooltip="Label map that gives the picture its shape."),
                io.Combo.Input("size", options=list(PRESETS), default=PRESETS[0],
                               tooltip="Size of the picture, always in the shape of the label map. trained: the size "
                                       "of the training images. trained x 1.5, trained x 2: longer sides. drawing: as "
                                       "many pixels as the label map."),
                *(io.Int.Input(side, default=0, min=0, max=nodes.MAX_RESOLUTION, tooltip=SIDE_TIP.format(side.title()))
                  for side in ("width", "height")),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of pictures."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Empty latent for the sampler."),
                io.String.Output(display_name="report", tooltip="Size of the picture, and how it compares with the "
                                                                "trained size."),
            ],
        )

    @classmethod
    def execute(cls, model, label_map, size=PRESETS[0], width=0, height=0, batch_size=1) -> io.NodeOutput:
        form = model.model.latent_format
        ratio = form.spacial_downscale_ratio
        drawing = label_map.shape[2], label_map.shape[1]
        chosen = choose_size(find_config(model), ratio, drawing, preset=size, width=width, height=height)
        if chosen.is_far:
            logging.warning("'Picture Size (MDiT)': %s", chosen)
        latent = torch.zeros(batch_size, form.latent_channels, chosen.height // ratio, chosen.width // ratio,
                             device=comfy.model_management.intermediate_device(),
                             dtype=comfy.model_management.intermediate_dtype())
        told = {"far_size": list(chosen) if chosen.is_far else []}
        return io.NodeOutput({"samples": latent}, str(chosen), ui=told)


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_Sampler",
            display_name="Face Sampler (MDiT)",
            category=menu.START,
            description="Samples with one guidance scale for the text and one for the mask. Reports how often the "
                        "stored mask was reused. 'KSampler' also works, with one scale for text and mask together.",
            search_aliases=["KSampler", "mask sampler", "draw face", "generate face"],
            inputs=[
                io.Model.Input("model", tooltip="Model from 'Load Face Model (MDiT)' or 'Apply Adapter (MDiT)'."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                             tooltip="Seed of the noise. The same seed gives the same image."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of denoising steps."),
                io.Float.Input("cfg", default=DEFAULT.text, tooltip=TEXT_TIP, **SCALE),
                io.Float.Input("mask_cfg", default=DEFAULT.mask, tooltip=MASK_TIP, **SCALE),
                io.Combo.Input("sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="euler",
                               tooltip="Numerical solver of the denoising equation."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple",
                               tooltip="Distribution of the noise levels over the steps."),
                io.Conditioning.Input("positive", tooltip=POSITIVE_TIP),
                io.Conditioning.Input("negative", tooltip=NEGATIVE_TIP),
                io.Latent.Input("latent_image", tooltip="Empty latent, or an encoded image to start from."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Strength of denoising. 1: pure noise at the start. Lower: more of the latent "
                                       "is kept."),
                io.Combo.Input("cache", options=list(CACHE_MODES), default="auto", optional=True, advanced=True,
                               tooltip="Storage of the mask's keys and values. auto: computed once and stored. 8-bit: "
                                       "stored in half the memory, close to exact. off: computed at every step."),
                io.Boolean.Input("offload", default=False, optional=True, advanced=True,
                                 tooltip="Storage of the cache in RAM, read block by block: slower, but saves VRAM."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Sampled latent."),
                io.String.Output(display_name="report", tooltip="Time of the run, and whether the mask was reused; "
                                                                "then static passes, cache hits, bytes and seconds."),
            ],
        )

    @classmethod
    def execute(cls, model, seed, steps, cfg, mask_cfg, sampler_name, scheduler, positive, negative, latent_image,
                denoise=1.0, cache="auto", offload=False) -> io.NodeOutput:
        latent, report = sample(
            model, seed=seed, steps=steps, guidance=Guidance(cfg, mask_cfg), sampler_name=sampler_name,
            scheduler=scheduler, positive=positive, negative=negative, latent=latent_image, denoise=denoise,
            cache=CacheOptions(cache, offload))
        return io.NodeOutput(latent, str(report))


class DualGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_DualGuider",
            display_name="Text + Mask Guider (MDiT)",
            category=menu.ADVANCED,
            description="Guider for 'SamplerCustomAdvanced' with one scale for the text and one for the mask.",
            search_aliases=["dual cfg", "mask guidance", "cfg guider"],
            inputs=[
                io.Model.Input("model", tooltip="Model from 'Load Face Model (MDiT)' or 'Apply Adapter (MDiT)'."),
                io.Conditioning.Input("positive", tooltip=POSITIVE_TIP),
                io.Conditioning.Input("negative", tooltip=NEGATIVE_TIP),
                io.Float.Input("text_scale", default=DEFAULT.text, tooltip=TEXT_TIP, **SCALE),
                io.Float.Input("mask_scale", default=DEFAULT.mask, tooltip=MASK_TIP, **SCALE),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="Guider for 'SamplerCustomAdvanced'.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, text_scale=DEFAULT.text, mask_scale=DEFAULT.mask) -> io.NodeOutput:
        require_mdit(model)
        guider = DualGuider(model)
        guider.set_conds(positive, negative)
        guider.set_guidance(Guidance(text_scale, mask_scale))
        return io.NodeOutput(guider)


class ExactSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_PTDiTSigmas",
            display_name="Exact Sigmas",
            category=menu.ADVANCED,
            description="Computes the noise levels of the authors' sampler for any number of steps: for PT-DiT and for "
                        "both kinds of MMFace-DiT. For flows the scheduler 'simple' gives the same levels if the "
                        "number of steps divides 1000.",
            search_aliases=["sigmas", "scheduler", "rectified flow schedule", "Schedule PT-DiT Exactly", "MMFace-DiT"],
            inputs=[
                io.Model.Input("model", tooltip="Model of 'Load PT-DiT Model' or 'Load MMFace-DiT Model'. The shift of "
                                                "a flow is read from the model."),
                io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Number of denoising steps."),
                io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01,
                               tooltip="Fraction of the noise schedule that is used. 1 starts from pure noise; "
                                       "smaller values keep more of the latent."),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="Noise levels for 'SamplerCustom' and "
                                                                     "'SamplerCustomAdvanced'.")],
        )

    @classmethod
    def execute(cls, model, steps, denoise=1.0) -> io.NodeOutput:
        compute = getattr(model.model, "compute_exact_sigmas", None)
        if compute is None:
            raise ValueError(f"model: the authors' noise levels of a {type(model.model).__name__} are not known: "
                             "connect the model of 'Load PT-DiT Model' or 'Load MMFace-DiT Model', or take "
                             "'BasicScheduler'")
        sigmas = compute(model.get_model_object("model_sampling"), int(steps / denoise))
        return io.NodeOutput(sigmas[-(steps + 1):])


NODES = (PictureSize, Sampler, DualGuiderNode, ExactSigmas)
