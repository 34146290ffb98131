"""A guider that runs two models on one latent (spec section 11.2)."""
from __future__ import annotations

import functools
import math
import weakref
from typing import NamedTuple

import torch
from torch import Tensor

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrappersMP

from .pair import check_base, check_pair
from .record import Contest, FusionRecord
from .saliency import KERNEL, Prior, log_saliency, response
from .stages import Borders, Stage, step_of

KEY = "mdit_fusion"
PRE_CFG, POST_CFG = "sampler_pre_cfg_function", "sampler_post_cfg_function"
CFG1, MASKING = "disable_cfg1_optimization", "denoise_mask_function"


class Prediction(NamedTuple):
    """Predictions of the clean latent (B, C, H, W): guided, and the two that it is made of; and what the condition
    changed, before functions in the model's options touched those two."""
    guided: Tensor
    cond: Tensor
    base: Tensor
    change: Tensor

    @classmethod
    def of(cls, predict, x: Tensor, timestep: Tensor, options: dict, seed) -> Prediction:
        """What a guider predicts, with the base pass also at a scale of 1: the response needs it."""
        raw, made_of = [], []

        def before(args):
            raw.extend(args["conds_out"])
            return args["conds_out"]

        def after(args):
            made_of.extend((args["cond_denoised"], args["uncond_denoised"]))
            return args["denoised"]
        options = {**options, CFG1: True, PRE_CFG: [before, *options.get(PRE_CFG, ())],
                   POST_CFG: [after, *options.get(POST_CFG, ())]}
        guided = predict(x, timestep, options, seed)
        return cls(guided, *made_of, raw[0] - raw[1])


class Around:
    """A sampler for the subject's run: inside of it the scene's takes place, with the subject's options at hand."""

    def __init__(self, run):
        self.run = run

    def sample(self, guider, sigmas, extra_args, callback, noise, *args) -> Tensor:
        self.output = self.run(extra_args["model_options"])
        return noise


class FusionGuider(comfy.samplers.CFGGuider):
    """Scene, then both fused by saliency, then subject alone.

    The scene is this guider's own model. The subject is a guider of its own, whose run encloses this one's: so the host
    prepares its options, conditions, hooks and patches as ever. Weights are loaded by one call for both.
    """

    def __init__(self, scene, subject, subject_base=None, borders: Borders = Borders(), prior: Prior = Prior(),
                 kernel: int = KERNEL):
        """subject_base: the subject's MODEL without patches that hold the reference, for the base pass; None for
        references in the conditioning. Raises ValueError for models that do not fit each other."""
        check_pair(scene, subject)
        if subject_base is not None:
            check_base(subject, subject_base)
        super().__init__(scene.clone())
        self.subject, self.subject_base = comfy.samplers.CFGGuider(subject.clone()), subject_base
        for guider in (self, self.subject):
            guider.model_patcher.remove_additional_models("multigpu")  # the host would take all for the scene's copies
        self.borders, self.prior, self.kernel = borders, prior, kernel
        self.record = FusionRecord()

    def set_scales(self, scene: float, subject: float):
        self.set_cfg(scene)
        self.subject.set_cfg(subject)

    def sample(self, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, *args, **kwargs) -> Tensor:
        """Raises ValueError for latents other than (B, C, H, W) and for those smaller than the smoothing."""
        if latent_image.is_nested or latent_image.ndim != 4:
            raise ValueError("latent_image: it holds several parts or frames: only latents of pictures, (batch, "
                             "channels, height, width), can be fused")
        if self.kernel > min(latent_image.shape[-2:]):
            raise ValueError(f"smoothing: {self.kernel} cells do not fit into a latent of "
                             f"{tuple(latent_image.shape[-2:])}: lower it, or take a larger latent")
        return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def outer_sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False,
                     seed=None, **kwargs) -> Tensor:
        def run(options):
            self.subject_options = self.with_base_options(options, sigmas)
            if MASKING in options:  # a run has one way of masking: the scene's, else this one
                self.model_options.setdefault(MASKING, options[MASKING])
            return scene_run(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        scene_run, around = super().outer_sample, Around(run)
        subject = self.subject.model_patcher
        self.record = FusionRecord(len(sigmas) - 1)
        self.log_prior = self.prior.log(noise.shape, self.model_patcher.load_device)
        load = functools.partial(FusionGuider.load, weakref.proxy(self))  # options outlive a run: they must not hold it
        subject.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, load)
        mask = None if denoise_mask is None else denoise_mask[:, :1]  # of all channels: the host repeats it again
        try:
            self.subject.sample(noise, latent_image, around, sigmas, mask, None, True, seed)
            return around.output
        finally:
            subject.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, KEY)
            self.model_patcher.remove_additional_models(KEY)
            self.record.settle()

    def load(self, executor, subject, noise_shape, conds, model_options=None, **kwargs):
        """PREPARE_SAMPLING of the subject. Models that one call of the host loads never push each other out, so the
        subject and its ControlNets ride on the scene's call. The room for one of the two models' work is enough, they
        run in turn: the larger estimate is asked for."""
        helpers = comfy.sampler_helpers
        models, memory = helpers.get_additional_models(conds, subject.model_dtype())
        models += helpers.get_additional_models_from_model_options(model_options)
        self.model_patcher.set_additional_models(KEY, [subject, *models])
        needed = helpers.estimate_memory(subject, noise_shape, conds)[0] + memory
        planned = helpers.estimate_memory(self.model_patcher, noise_shape, self.conds)[0]
        ratio = max(1.0, needed / planned)

        def reserve(executor, model, shape, *args, **kwargs):
            return executor(model, [*shape[:-1], math.ceil(shape[-1] * ratio)], *args, **kwargs)
        comfy.patcher_extension.add_wrapper(WrappersMP.PREPARE_SAMPLING, reserve, self.model_options, True)
        helpers.prepare_sampling(self.model_patcher, noise_shape, self.conds, self.model_options)
        return subject.model, conds, models

    def with_base_options(self, options: dict, sigmas: Tensor) -> dict:
        """The subject's options; with a base model, its base pass runs with that one's."""
        if self.subject_base is None:
            return options
        base = comfy.model_patcher.create_model_options_clone(self.subject_base.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.subject_base, {}, base)
        base["transformer_options"]["sample_sigmas"] = sigmas.to(self.subject_base.load_device)
        comfy.samplers.cast_to_load_options(base, self.subject_base.load_device, self.subject_base.model_dtype())

        def both(args):
            passes = zip(args["conds"], (args["model_options"], base))
            return [comfy.samplers.calc_cond_batch(args["model"], [cond], args["input"], args["sigma"], of_pass)[0]
                    for cond, of_pass in passes]
        return {**options, "sampler_calc_cond_batch_function": both}

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        """One evaluation. Wrappers of a model that has no part in the step's stage are left out."""
        self.step = step_of(timestep[0], model_options["transformer_options"]["sample_sigmas"])
        stage = self.record.stages[self.step] = self.borders.stage(self.step, self.record.steps)
        if stage is Stage.SUBJECT:
            lend(self.subject.model_patcher)
            return self.subject(x, timestep, self.subject_options_for(model_options), seed)
        return super().outer_predict_noise(x, timestep, model_options, seed)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        """Of the scene or, inside the subject's wrappers as well, of both."""
        if self.record.stages[self.step] is Stage.SCENE:
            return self.predict_scene(x, timestep, model_options, seed)
        own, added = self.after_guidance(model_options)

        def both(x, timestep, subject_options, seed):
            scene = Prediction.of(self.predict_scene, x, timestep, {**model_options, POST_CFG: own}, seed)
            subject = Prediction.of(self.predict_subject, x, timestep, subject_options, seed)
            return self.show(self.fuse(scene, subject, timestep, self.step), added, x, timestep, model_options)
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.PREDICT_NOISE, self.subject_options, True)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(both, self.subject, wrappers)
        return executor.execute(x, timestep, self.subject_options, seed)

    def after_guidance(self, model_options: dict) -> tuple[list, list]:
        """Functions to call after guidance: the scene's own, and those that a sampler added, such as CFG++'s."""
        functions, count = model_options.get(POST_CFG, []), len(self.model_options.get(POST_CFG, []))
        return functions[:count], functions[count:]

    def subject_options_for(self, model_options: dict) -> dict:
        """The subject's options with what a sampler added to the scene's."""
        _, added = self.after_guidance(model_options)
        cfg1 = {CFG1: model_options[CFG1]} if CFG1 in model_options else {}
        return {**self.subject_options, **cfg1, POST_CFG: [*self.subject_options.get(POST_CFG, ()), *added]}

    def predict_scene(self, x, timestep, model_options, seed) -> Tensor:
        lend(self.model_patcher)
        return super().predict_noise(x, timestep, model_options, seed)

    def predict_subject(self, x, timestep, model_options, seed) -> Tensor:
        lend(self.subject.model_patcher)
        return self.subject.predict_noise(x, timestep, model_options, seed)

    def fuse(self, scene: Prediction, subject: Prediction, sigma: Tensor, step: int) -> Prediction:
        sides = ((scene, self.cfg), (subject, self.subject.cfg))
        of_scene, of_subject = (log_saliency(response(side.change, scale, sigma), self.kernel)
                                for side, scale in sides)  # (B, 1, H, W)
        of_subject = of_subject + self.log_prior
        won = of_subject > of_scene
        self.record.contests[step] = Contest(of_scene, of_subject, won)
        return Prediction(*(torch.where(won, one, other) for one, other in zip(subject, scene)))

    def show(self, fused: Prediction, added: list, x: Tensor, timestep: Tensor, model_options: dict) -> Tensor:
        """Calls the functions that a sampler added to the options, on the fused predictions."""
        args = {"denoised": fused.guided, "cond_denoised": fused.cond, "uncond_denoised": fused.base, "sigma": timestep,
                "cond": self.conds["positive"], "uncond": self.conds["negative"], "cond_scale": self.cfg, "input": x,
                "model": self.inner_model, "model_options": model_options}
        for function in added:
            args["denoised"] = function(args)
        return args["denoised"]


def lend(patcher):
    """Where both sides are clones of one model, gives it to one of them, without the other's hooks on its weights."""
    current = patcher.model.current_patcher
    if current is not patcher:
        current.apply_hooks(None)
        patcher.model.current_patcher = patcher
