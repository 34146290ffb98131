"""Sampling runs through the host, for the tests of the core."""
from __future__ import annotations

import contextlib
from unittest import mock

import torch

import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import comfy.utils
import nodes
from comfy_extras import nodes_hooks
from mditface.mdit.mditface.cache import RunReport, StaticMaskCache
from mditface.mdit.mditface.mask import MaskInput, MaskReference
from mditface.mdit.mditface.reader import OPTIONS_KEY, CacheOptions
from mditface.mdit.shared.masks import CONDITIONING_KEY, REPORT_KEY

SIDE = 16
CPU = torch.device("cpu")
TOLERANCE = dict(rtol=0, atol=2e-6)
OFF = CacheOptions("off")
comfy.utils.set_progress_bar_enabled(False)


def masked(conditioning, mask: MaskInput, *reference):
    return [[text, {**extra, CONDITIONING_KEY: MaskReference(mask, *reference)}] for text, extra in conditioning]


def references(conditioning) -> list[MaskReference]:
    return [extra[CONDITIONING_KEY] for _, extra in conditioning if CONDITIONING_KEY in extra]


def reporting(model, options: CacheOptions = CacheOptions()):
    """A clone of the model and the report that its runs write to."""
    model, report = model.clone(), RunReport()
    model.model_options["transformer_options"] |= {OPTIONS_KEY: options, REPORT_KEY: report}
    return model, report


def run(model, positive, negative, options: CacheOptions = CacheOptions(), *, latent=(1, 3, SIDE, SIDE), seed=0,
        steps=2, cfg=2.0) -> tuple[torch.Tensor, RunReport]:
    """A run of the host's KSampler."""
    model, report = reporting(model, options)
    samples = latent if torch.is_tensor(latent) else torch.zeros(latent)
    (out,) = nodes.common_ksampler(model, seed, steps, cfg, "euler", "simple", positive, negative, {"samples": samples})
    made = out["samples"]  # (B, C, h, w), or (B, C, 1, h, w)
    return made.squeeze(2) if made.ndim == 5 else made, report


def check_other_entry(run, model, changed, positive, negative, expected: torch.Tensor, effect: float):
    """A changed model takes a pass of its own and none again, and leaves the entry of the unchanged one alone.

    `expected` is its result without a cache, which differs from the unchanged model's by more than `effect`.
    """
    base, _ = run(model, positive, negative)
    out, report = run(changed, positive, negative)
    assert report.passes == 1
    torch.testing.assert_close(out, expected, **TOLERANCE)
    assert not torch.allclose(out, base, atol=effect)
    assert run(changed, positive, negative, seed=3)[1].passes == 0
    again, report = run(model, positive, negative)
    assert report.passes == 0
    torch.testing.assert_close(again, base, **TOLERANCE)


def evaluate(guider, x: torch.Tensor, sigma: float = 0.7) -> torch.Tensor:
    """The guider's prediction of the clean latent for the noisy latent x."""
    def once(model, noise, sigmas, extra_args, callback, disable):
        return model(x.to(noise), sigmas[:1].expand(x.shape[0]), **extra_args)
    frames = guider.model_patcher.get_model_object("latent_format").latent_dimensions == 3
    x = x.unsqueeze(2) if frames else x
    out = guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(once), torch.tensor([sigma, 0.0]))
    return out.squeeze(2) if frames else out


def batches(model) -> tuple:
    """A clone of the model, and a list that grows by the number of rows of each call of its network."""
    model, seen = model.clone(), []

    def count(executor, x, *args, **kwargs):
        seen.append(x.shape[0])
        return executor(x, *args, **kwargs)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", count)
    return model, seen


def lora(*layers: str, rank: int = 2, width: int = 32, seed: int = 5, parts: int = 3) -> dict[str, torch.Tensor]:
    """A LoRA of random weights on layers of so many widths, fused qkv ones by default, keyed as for the host."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for layer in layers:
        out[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(parts * width, rank, generator=generator) * 0.4
        out[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(rank, width, generator=generator) * 0.4
    return out


MASK_LORA = lora("blocks.0.msk.qkv", "blocks.1.msk.qkv")


def with_lora(model, strength: float):
    return comfy.sd.load_lora_for_models(model, None, MASK_LORA, strength, 0)[0]


def with_bypass_lora(model, strength: float):
    return comfy.sd.load_bypass_lora_for_models(model, None, MASK_LORA, strength, 0)[0]


def make_hooks(strength: float = 1.0, keyframes: dict[float, float] = {}):
    """MASK_LORA as a hook; `keyframes` maps a place in the schedule to a strength."""
    hooks = comfy.hooks.create_hook_lora(MASK_LORA, strength, 0)
    frames = None
    for start, mult in keyframes.items():
        (frames,) = nodes_hooks.CreateHookKeyframe().create_hook_keyframe(mult, start, frames)
    return nodes_hooks.SetHookKeyframes().set_hook_keyframes(hooks, frames)[0]


def hooked(conditioning, strength: float = 1.0, keyframes: dict[float, float] = {}):
    """The conditioning with the hooks of `make_hooks`."""
    return nodes_hooks.SetModelHooksOnCond().attach_hook(conditioning, make_hooks(strength, keyframes))[0]


@contextlib.contextmanager
def reservations():
    """The entries and bytes that runs inside the block reserve, in their order."""
    found, reserved = [], StaticMaskCache.reserve

    def record(cache, entries, nbytes, keys=()):
        found.append((entries, nbytes))
        return reserved(cache, entries, nbytes, keys)
    with mock.patch.object(StaticMaskCache, "reserve", record):
        yield found


@contextlib.contextmanager
def replaced(target, name: str, value):
    """`target.name` is `value` inside the block, and what it was after it."""
    setattr(target, name, value)
    try:
        yield
    finally:
        delattr(target, name)
