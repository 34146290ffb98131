"""What happens around the host's sampling of MMFace-DiT (docs/design/mmface-dit.md, sections 6 and 8)."""
from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

import comfy.patcher_extension

from ..shared.conds import check_additions
from ..shared.masks import BATCH_KEY, REPORT_KEY
from .condition import OWN_KEY, bind, describe, read_reference

BOUND_KEY = "mmface_bound"  # of a condition: BoundCondition
SIGMAS_KEY = "mmface_sigmas"  # of a model call: the noise levels (B, 2) between which rows read their conditions
GUARD_KEY = "mmface_guard"  # of the transformer options: ObjectiveGuard
NOISY = 0.1  # fraction of the schedule in which an image is almost all noise
CLEAR = 0.5  # cosine


@dataclass
class ObjectiveGuard:
    """Whether the objective of a run is still to be checked."""
    due: bool = True

    def check(self, model, x: Tensor, sigma: Tensor, denoised: Tensor):
        """Raises ValueError where the first prediction of a run, (B, C, h, w) from x, is turned round.

        From noise, a network that predicts noise gives x, and a flow -x. Read as the other, both give -x.
        """
        due, self.due = self.due, False
        if not due or sigma[0] < model.model_sampling.percent_to_sigma(NOISY):
            return
        cosine = F.cosine_similarity((x - denoised).flatten(), x.flatten(), dim=0)
        if cosine < -CLEAR:
            chosen = model.config.objective
            other = "diffusion" if chosen == "flow" else "flow"
            raise ValueError(f"objective: the first prediction points away from the noise, so this file is no "
                             f"'{chosen}': choose '{other}' in 'Load MMFace-DiT Model'")


def install(patcher):
    """Makes a MODEL read masks and sketches. The key tells other nodes that it does."""
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, OWN_KEY, bind_conditions)
    patcher.add_wrapper_with_key(wrappers.APPLY_MODEL, OWN_KEY, apply_conditions)


def bind_conditions(executor, noise: Tensor, *args, **kwargs):
    """OUTER_SAMPLE: encodes each condition's picture in the size of the run, before the model is loaded."""
    guider = executor.class_obj
    patcher = guider.model_patcher
    check_latents(noise, patcher.model)
    options = guider.model_options["transformer_options"]
    conds = list(itertools.chain.from_iterable(guider.conds.values()))
    check_additions(conds, "MMFace-DiT")
    references = [read_reference(cond) for cond in conds]
    bound = {reference: bind(reference, noise.shape, patcher, options.get(BATCH_KEY))
             for reference in references if reference is not None}
    for cond, reference in zip(conds, references):
        cond[BOUND_KEY] = bound.get(reference)
    options[GUARD_KEY] = ObjectiveGuard()
    if REPORT_KEY in options:
        pixels = patcher.model.latent_format.spacial_downscale_ratio
        height, width = (side * pixels for side in noise.shape[-2:])
        options[REPORT_KEY].notes += describe(references, height, width)
    return executor(noise, *args, **kwargs)


def check_latents(noise: Tensor, model):
    """Raises ValueError for latents of another kind than the base model's (B, 16, h, w)."""
    channels = model.config.latent_channels
    if noise.is_nested or noise.ndim != 4 or noise.shape[1] != channels:
        found = "it has several parts" if noise.is_nested else f"its shape is {tuple(noise.shape)}"
        raise ValueError(f"latent_image: {found}, MMFace-DiT works on (batch, {channels}, height, width): encode "
                         "the image with FLUX's VAE (ae.safetensors), or start from an empty latent")


def apply_conditions(executor, x: Tensor, t: Tensor, c_concat=None, c_crossattn=None, control=None,
                     transformer_options={}, **kwargs):
    """APPLY_MODEL: takes conditions away outside their range, and checks the run's first prediction."""
    sigmas = kwargs.pop(SIGMAS_KEY, None)
    if sigmas is not None:
        highest, lowest = sigmas.to(t).unbind(1)
        read = (lowest <= t) & (t <= highest)  # (B,)
        c_concat = c_concat * read.view(-1, 1, 1, 1).to(c_concat)
    denoised = executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    guard = transformer_options.get(GUARD_KEY)
    if guard is not None:
        guard.check(executor.class_obj, x, t, denoised)
    return denoised
