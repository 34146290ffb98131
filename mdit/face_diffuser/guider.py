"""A guider that runs a scene model and a subject model on one latent: docs/design/face-diffuser.md, section 11.2."""
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
from comfy.patcher_extension import WrapperExecutor, WrappersMP

from ..shared.conds import CALC_CONDS, KEEP_CFG1, predict_conds
from .pair import check_base, check_pair
from .record import FusedStep, FusionRecord
from .saliency import KERNEL, Prior, compute_response, compute_log_saliency
from .stages import Borders, Stage, find_step

KEY = "mdit_fusion"
PRE_CFG = "sampler_pre_cfg_function"
POST_CFG = "sampler_post_cfg_function"
MASKING = "denoise_mask_function"


class Prediction(NamedTuple):
    """One model's predictions of the clean latent, (B, C, h, w) each.

    guided: after guidance.
    cond: with the condition.
    base: without it.
    change: cond - base, before functions in the model's options changed either.
    """
    guided: Tensor
    cond: Tensor
    base: Tensor
    change: Tensor


def predict_parts(predict, x: Tensor, timestep: Tensor, options: dict, seed) -> Prediction:
    """Calls a guider's `predict` and keeps what its result is made of.

    The base pass runs at a guidance scale of 1 too, since the response needs it.
    """
    raw = []
    final = []

    def keep_raw(args):
        raw.extend(args["conds_out"])
        return args["conds_out"]

    def keep_final(args):
        final.extend([args["cond_denoised"], args["uncond_denoised"]])
        return args["denoised"]
    options = {**options, KEEP_CFG1: True, PRE_CFG: [keep_raw, *options.get(PRE_CFG, ())],
               POST_CFG: [keep_final, *options.get(POST_CFG, ())]}
    guided = predict(x, timestep, options, seed)
    cond, base = final
    return Prediction(guided, cond, base, raw[0] - raw[1])


def choose(subject_mask: Tensor, subject: Prediction, scene: Prediction) -> Prediction:
    """The subject's predictions where the mask is true, the scene's elsewhere."""
    return Prediction._make(torch.where(subject_mask, of_subject, of_scene)
                            for of_subject, of_scene in zip(subject, scene))


class NestedRun:
    """A sampler for the subject's guider. It calls `run` with the subject's options; the scene's run takes place there.
    """

    def __init__(self, run):
        self.run = run

    def sample(self, guider, sigmas, extra_args, callback, noise, *args) -> Tensor:
        self.output = self.run(extra_args["model_options"])
        return noise


class FusionGuider(comfy.samplers.CFGGuider):
    """Scene, then both models fused by saliency, then the subject alone.

    The scene is this guider's own model. The subject has a guider of its own, whose run encloses this one's. The host
    therefore prepares the subject's options, conditions, hooks and patches as usual. One call loads both models.
    """

    def __init__(self, scene, subject, subject_base=None, borders: Borders = Borders(), prior: Prior = Prior(),
                 kernel: int = KERNEL):
        """subject_base: the subject's MODEL without the patches that hold the reference, for the base pass; None if
        the reference is in the conditioning. Raises ValueError for models that do not fit each other."""
        check_pair(scene, subject)
        if subject_base is not None:
            check_base(subject, subject_base)
        super().__init__(scene.clone())
        self.subject = comfy.samplers.CFGGuider(subject.clone())
        self.subject_base = subject_base
        for guider in (self, self.subject):  # the host would take all models for copies of the scene
            guider.model_patcher.remove_additional_models("multigpu")
        self.borders = borders
        self.prior = prior
        self.kernel = kernel
        self.record = FusionRecord()

    def set_scales(self, scene: float, subject: float):
        self.set_cfg(scene)
        self.subject.set_cfg(subject)

    def sample(self, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, denoise_mask=None, callback=None,
               disable_pbar=False, seed=None) -> Tensor:
        """Raises ValueError for latents other than (B, C, h, w) and for latents smaller than the box filter."""
        if latent_image.is_nested or latent_image.ndim != 4:
            raise ValueError("latent_image: it holds several parts or frames: only latents of images, (batch, "
                             "channels, height, width), can be fused")
        if self.kernel > min(latent_image.shape[-2:]):
            raise ValueError(f"smoothing: {self.kernel} cells do not fit into a latent of "
                             f"{tuple(latent_image.shape[-2:])}: lower it, or take a larger latent")
        self.record = FusionRecord()  # a run without noise levels makes none
        return super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)

    def outer_sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False,
                     seed=None, **kwargs) -> Tensor:
        run_scene = super().outer_sample

        def run_inside(subject_options):
            self.subject_options = self.add_base_options(subject_options, sigmas)
            if MASKING in subject_options:  # a run has one way of masking: the scene's, or else the subject's
                self.model_options.setdefault(MASKING, subject_options[MASKING])
            return run_scene(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        nested = NestedRun(run_inside)
        subject = self.subject.model_patcher
        self.shape = noise.shape
        self.record = FusionRecord(len(sigmas) - 1)
        self.log_prior = self.prior.compute_log_weight(noise.shape, self.model_patcher.load_device)
        load = functools.partial(FusionGuider.load, weakref.proxy(self))  # options outlive a run and must not hold it
        subject.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, load)
        mask = None if denoise_mask is None else denoise_mask[:, :1]  # the host repeats it over the channels again
        try:
            self.subject.sample(noise, latent_image, nested, sigmas, mask, None, True, seed)
            return nested.output
        finally:
            subject.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, KEY)
            self.model_patcher.remove_additional_models(KEY)
            self.record.offload()

    def load(self, executor, subject, noise_shape, conds, model_options=None, **kwargs):
        """PREPARE_SAMPLING of the subject: loads both models by the scene's call.

        Models of one call never evict each other, so the subject and its ControlNets join that call. The models run in
        turn, so the call asks for the larger of their two memory estimates.
        """
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

    def add_base_options(self, options: dict, sigmas: Tensor) -> dict:
        """The subject's options. With a base model, the base pass runs with that model's options."""
        if self.subject_base is None:
            return options
        base = comfy.model_patcher.create_model_options_clone(self.subject_base.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.subject_base, {}, base)
        base["transformer_options"]["sample_sigmas"] = sigmas.to(self.subject_base.load_device)
        comfy.samplers.cast_to_load_options(base, self.subject_base.load_device, self.subject_base.model_dtype())

        def predict_both(args):
            cond, without = args["conds"]
            function = base.get(CALC_CONDS)
            with_reference = {**args, "conds": [cond, None]}
            without_reference = {**args, "conds": [cond if function else None, without], "model_options": base}
            return [predict_conds(with_reference, options.get(CALC_CONDS))[0],
                    predict_conds(without_reference, function)[1]]
        return {**options, CALC_CONDS: predict_both}

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        """One evaluation. Wrappers of a model that does not run in the step's stage are skipped."""
        self.step = find_step(timestep[0], model_options["transformer_options"]["sample_sigmas"])
        stage = self.borders.find_stage(self.step, self.record.steps)
        self.record.stages[self.step] = stage
        if stage is Stage.SUBJECT:
            activate(self.subject.model_patcher)
            return self.subject(x, timestep, self.make_subject_options(model_options), seed)
        return super().outer_predict_noise(x, timestep, model_options, seed)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options={}, seed=None) -> Tensor:
        """The scene's prediction, or the fused one, which the subject's wrappers enclose too."""
        if self.record.stages[self.step] is Stage.SCENE:
            return self.predict_scene(x, timestep, model_options, seed)
        own, added = self.split_post_cfg(model_options)

        def predict_fused(x, timestep, subject_options, seed):
            scene = predict_parts(self.predict_scene, x, timestep, {**model_options, POST_CFG: own}, seed)
            subject = predict_parts(self.predict_subject, x, timestep, subject_options, seed)
            fused = self.fuse(scene, subject, timestep)
            return self.call_added(added, fused, x, timestep, model_options)
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.PREDICT_NOISE, self.subject_options, True)
        executor = WrapperExecutor.new_class_executor(predict_fused, self.subject, wrappers)
        return executor.execute(x, timestep, self.subject_options, seed)

    def split_post_cfg(self, model_options: dict) -> tuple[list, list]:
        """Functions to call after guidance: the scene's own, and those that a sampler added, such as CFG++'s."""
        functions = model_options.get(POST_CFG, [])
        count = len(self.model_options.get(POST_CFG, []))
        return functions[:count], functions[count:]

    def make_subject_options(self, model_options: dict) -> dict:
        """The subject's options with what a sampler added to the scene's."""
        _, added = self.split_post_cfg(model_options)
        options = {**self.subject_options, POST_CFG: [*self.subject_options.get(POST_CFG, ()), *added]}
        if KEEP_CFG1 in model_options:
            options[KEEP_CFG1] = model_options[KEEP_CFG1]
        return options

    def predict_scene(self, x, timestep, model_options, seed) -> Tensor:
        activate(self.model_patcher)
        return super().predict_noise(x, timestep, model_options, seed)

    def predict_subject(self, x, timestep, model_options, seed) -> Tensor:
        activate(self.subject.model_patcher)
        return self.subject.predict_noise(x, timestep, model_options, seed)

    def fuse(self, scene: Prediction, subject: Prediction, sigma: Tensor) -> Prediction:
        """Takes the subject's prediction in the cells where its saliency is higher, and records the step.

        Raises ValueError for a part of the latents: the prior and the record are of all.
        """
        if scene.change.shape != self.shape:
            raise ValueError(f"guider: another node evaluates {tuple(scene.change.shape)} of the latents "
                             f"{tuple(self.shape)} at a time, so saliency cannot be compared: remove that node")
        scene_response = compute_response(scene.change, self.cfg, sigma)  # (B, C, h, w)
        subject_response = compute_response(subject.change, self.subject.cfg, sigma)
        scene_saliency = compute_log_saliency(scene_response, self.kernel)  # (B, 1, h, w)
        subject_saliency = compute_log_saliency(subject_response, self.kernel) + self.log_prior
        subject_mask = subject_saliency > scene_saliency
        self.record.fused_steps[self.step] = FusedStep(scene_saliency, subject_saliency, subject_mask)
        return choose(subject_mask, subject, scene)

    def call_added(self, added: list, fused: Prediction, x: Tensor, timestep: Tensor, model_options: dict) -> Tensor:
        """Calls the functions that a sampler added to the options, on the fused predictions."""
        args = {"denoised": fused.guided, "cond_denoised": fused.cond, "uncond_denoised": fused.base, "sigma": timestep,
                "cond": self.conds["positive"], "uncond": self.conds["negative"], "cond_scale": self.cfg, "input": x,
                "model": self.inner_model, "model_options": model_options}
        for function in added:
            args["denoised"] = function(args)
        return args["denoised"]


def activate(patcher):
    """Makes a patcher its model's current one. If the other side held the model, its weight hooks are removed."""
    current = patcher.model.current_patcher
    if current is not patcher:
        current.apply_hooks(None)
        patcher.model.current_patcher = patcher
