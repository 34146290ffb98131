"""One sampling run of a model that reads masks through the host's samplers."""
from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from torch import Tensor

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from ..shared.frames import has_frames
from ..shared.masks import BATCH_KEY, CONDITIONING_KEY, REPORT_KEY, is_mask
from ..shared.overflow import refuse_overflow
from .cache import RunReport
from .guidance import DualGuider, Guidance
from .reader import OPTIONS_KEY, CacheOptions, reads_masks


def require_mdit(model):
    """Raises ValueError for a MODEL that cannot read a mask."""
    if not reads_masks(model):
        raise ValueError(f"model: a {type(model.model).__name__} cannot read a mask: "
                         "connect the model of 'Load Face Model (MDiT)' or 'Apply Adapter (MDiT)'")


def list_unread(model, positive, negative) -> list[str]:
    """Lines for the report about masks in a run's conditionings that a MODEL does not read."""
    found = [{key for _, options in texts for key in options if is_mask(key)} for texts in (positive, negative)]
    readers = model.wrappers.get(comfy.patcher_extension.WrappersMP.APPLY_MODEL, {})
    notes = []
    if found[0] - {CONDITIONING_KEY, *readers}:
        notes.append("positive: it holds a mask for another adapter or model, which this model does not read: apply "
                     "that adapter, or attach the mask without one")
    if found[1] and not found[0]:
        notes.append("negative: its mask is not read, since 'mask_cfg' guides by the positive's mask: attach the mask "
                     "to the positive conditioning, or use 'KSampler'")
    return notes


def check_latent(model, latent: dict):
    """The latents of a LATENT, (B, C, H, W) or (B, C, T, H, W), empty ones in the model's channels.

    Raises ValueError for a latent of another model, and for numbers and noise masks that nothing can be made of.
    """
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal"))
    form = model.model.latent_format
    channels = form.latent_channels
    fits = not samples.is_nested and samples.ndim == 2 + form.latent_dimensions
    if not fits or samples.shape[0] == 0 or samples.shape[1] != channels:
        found = "several parts" if samples.is_nested else f"shape {tuple(samples.shape)}"
        frames = "frames, " if has_frames(form) else ""
        raise ValueError(f"latent_image: {found}, but the model needs (batch, {channels}, {frames}height, width) with "
                         "a batch of at least 1: encode images with the model's VAE")
    if not samples.isfinite().all():
        raise ValueError("latent_image: it holds NaN or infinite numbers: look at the image and the VAE it comes from")
    mask = latent.get("noise_mask")
    if mask is not None and (mask.ndim < 2 or 0 in mask.shape or not mask.isfinite().all()):
        raise ValueError(f"latent_image: its noise mask of shape {tuple(mask.shape)} is empty or holds NaN: connect "
                         "another mask to 'Set Latent Noise Mask'")
    index = latent.get("batch_index")
    if index is not None and len(index) != len(samples):
        raise ValueError(f"latent_image: it names {len(index)} latents (batch_index), but holds {len(samples)}: the "
                         "node before it lost some: take the latents from another node")
    return samples


def sample(model, *, seed: int, steps: int, guidance: Guidance, sampler_name: str, scheduler: str, positive, negative,
           latent: dict, denoise: float = 1.0, cache: CacheOptions = CacheOptions()) -> tuple[dict, RunReport]:
    """The sampled LATENT, and the report of the static path.

    Raises ValueError for inputs that cannot be sampled, and where numbers overflow.
    """
    require_mdit(model)
    samples = check_latent(model, latent)
    report = RunReport()
    index = latent.get("batch_index")
    model = model.clone()
    model.model_options["transformer_options"] |= {OPTIONS_KEY: cache, REPORT_KEY: report, BATCH_KEY: index}
    guider = DualGuider(model)
    guider.set_conds(positive, negative)
    guider.set_guidance(guidance)
    report.notes += list_unread(model, positive, negative)
    schedule = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise)
    start = time.perf_counter()
    noise = comfy.sample.prepare_noise(samples, seed, index)
    run = partial(
        guider.sample, noise, samples, comfy.samplers.sampler_object(sampler_name), schedule.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps), disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed)
    out = run()
    if not out.isfinite().all():
        name_overflow(model, run)
    made = max(0, len(schedule.sigmas) - 1)  # no noise levels where nothing is denoised
    report.total = time.perf_counter() - start
    report.notes.append(f"sampling seconds {report.total:.3f}, steps {made}")
    report.notes += guider.describe_skipped()
    rest = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    out = out.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
    return {**rest, "samples": out}, report


def name_overflow(model, run: Callable[[], Tensor]) -> None:
    """Raises ValueError, which names the layer whose numbers are the first that are not finite.

    run: samples again, until then.
    """
    model.model_options["transformer_options"][OPTIONS_KEY] = CacheOptions("off")  # so the static path runs again, too
    with refuse_overflow(model.model.diffusion_model):
        run()
    raise ValueError("sampler_name: the sampler's numbers overflow, but those of the model do not: lower 'cfg' and "
                     "'mask_cfg', or choose another sampler")
