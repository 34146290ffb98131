"""Sampling with a mask."""
from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..mdit.mditface.guidance import DualGuider
from ..mdit.mditface.sample import require_mdit, sample
from ..mdit.mditface.reader import CACHE_MODES, CacheOptions

SCALE = dict(min=0.0, max=100.0, step=0.1, round=0.01)
TEXT_TIP = "How far the picture is pushed towards the text. 1.5 for the bundled model, 1 for no push."
MASK_TIP = "How far the picture is pushed towards the mask. 2 for the bundled model; 1 leaves out one of three " \
           "evaluations a step."


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_Sampler",
            display_name="Sample MDiT Face",
            category="MDiTFace",
            description="Samples with separate guidance for text and mask, and reports what the static mask cache did. "
                        "The stock KSampler works too, with one guidance scale for both.",
            search_aliases=["KSampler", "mask sampler", "face sampler"],
            inputs=[
                io.Model.Input("model", tooltip="Model from Load MDiT Model."),
                io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                             tooltip="Start of the noise; the same seed gives the same picture."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Number of denoising steps."),
                io.Float.Input("cfg", default=1.5, tooltip=TEXT_TIP, **SCALE),
                io.Float.Input("mask_cfg", default=2.0, tooltip=MASK_TIP, **SCALE),
                io.Combo.Input("sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="euler",
                               tooltip="Solver of the sampling equation."),
                io.Combo.Input("scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple",
                               tooltip="How the noise levels are spread over the steps."),
                io.Conditioning.Input("positive", tooltip="Text and mask to generate from."),
                io.Conditioning.Input("negative", tooltip="Text to stay away from; may be empty. Needs no mask."),
                io.Latent.Input("latent_image", tooltip="Empty latent, or an encoded picture to start from."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="1 starts from noise alone, less keeps more of the latent."),
                io.Combo.Input("cache", options=list(CACHE_MODES), default="auto", optional=True, advanced=True,
                               tooltip="auto: the mask's keys and values are computed once and kept. 8-bit: kept in "
                                       "half the memory, close to exact. off: computed at every step."),
                io.Boolean.Input("offload", default=False, optional=True, advanced=True,
                                 tooltip="Keep the cache in RAM and fetch it block by block: slower, saves VRAM."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The sampled latent."),
                io.String.Output(display_name="report", tooltip="Static passes, cache hits, bytes, seconds."),
            ],
        )

    @classmethod
    def execute(cls, model, seed, steps, cfg, mask_cfg, sampler_name, scheduler, positive, negative, latent_image,
                denoise=1.0, cache="auto", offload=False) -> io.NodeOutput:
        latent, report = sample(model, seed, steps, cfg, mask_cfg, sampler_name, scheduler, positive, negative,
                                latent_image, denoise, CacheOptions(cache, offload))
        return io.NodeOutput(latent, str(report))


class DualGuiderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MDiT_DualGuider",
            display_name="Guide by Text and MDiT Mask",
            category="MDiTFace",
            description="A guider for SamplerCustomAdvanced with one scale for the text and one for the mask.",
            search_aliases=["dual cfg", "mask guidance", "cfg guider"],
            inputs=[
                io.Model.Input("model", tooltip="Model from Load MDiT Model."),
                io.Conditioning.Input("positive", tooltip="Text and mask to generate from."),
                io.Conditioning.Input("negative", tooltip="Text to stay away from; may be empty. Needs no mask."),
                io.Float.Input("text_scale", default=1.5, tooltip=TEXT_TIP, **SCALE),
                io.Float.Input("mask_scale", default=2.0, tooltip=MASK_TIP, **SCALE),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="Connect to SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, positive, negative, text_scale=1.5, mask_scale=2.0) -> io.NodeOutput:
        require_mdit(model)
        guider = DualGuider(model)
        guider.set_conds(positive, negative)
        guider.set_scales(text_scale, mask_scale)
        return io.NodeOutput(guider)


NODES = (Sampler, DualGuiderNode)
