"""Cost of the saliency fusion guider, in addition to its two models.

    python dev.py bench face_diffuser [--pixels 512] [--rounds 40]

A fused prediction is compared with the two models' guided predictions, each by the host's own guider, with networks
that take no time: the difference is the guider's own time. A step is one call of Stable Diffusion 1.5's UNet at full
size with two rows (guidance) for each model; its time does not depend on the weights. Without CUDA, times are CPU
seconds of one thread, which other programs disturb least. The last line printed is one JSON object with seconds and
the guider's share of a step.
"""
from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor

import comfy.model_base
import comfy.samplers
import comfy.supported_models
from comfy.model_patcher import ModelPatcher
from mditface.mdit.face_diffuser.guider import FusionGuider
from mditface.mdit.face_diffuser.stages import Borders

from .costs.measure import time_call
from .costs.sd15 import UNET

TOKENS = 77
SIGMA = 1.0
SCALE = 5.0  # of guidance, as in the published script


class InstantNetwork(torch.nn.Module):
    """A network that takes no time. Different texts give different predictions."""

    def __init__(self, dtype: torch.dtype, **_):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_) -> Tensor:
        return x * context[:, :1, :1, None]


class Timer:
    """A sampler that measures a guider's prediction."""

    def __init__(self, x: Tensor, rounds: int):
        self.x = x
        self.rounds = rounds

    def sample(self, guider, sigmas, extra_args, callback, noise, *args) -> Tensor:
        x = self.x.to(noise.device)
        sigma = sigmas[:1].expand(len(x))
        self.seconds = [time_call(lambda: guider(x, sigma, **extra_args), noise.device) for _ in range(self.rounds)]
        return noise


def make_text(seed: int) -> list:
    return [[torch.randn(1, TOKENS, UNET["context_dim"], generator=torch.Generator().manual_seed(seed)), {}]]


def make_model(network: type, device: torch.device, dtype: torch.dtype) -> ModelPatcher:
    config = comfy.supported_models.SD15({**UNET, "dtype": dtype})
    return ModelPatcher(comfy.model_base.BaseModel(config, device=device, unet_model=network), device, device)


def time_prediction(guider: comfy.samplers.CFGGuider, latent: Tensor, rounds: int) -> float:
    """Median seconds of a guider's prediction."""
    timer = Timer(latent, rounds)
    guider.sample(torch.zeros_like(latent), torch.zeros_like(latent), timer, torch.tensor([SIGMA, 0.0]))
    return float(np.median(timer.seconds))


def measure_overhead(latent: Tensor, rounds: int, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a fused prediction and of the two models' own, with networks that take no time."""
    scene = make_model(InstantNetwork, device, dtype)
    subject = make_model(InstantNetwork, device, dtype)
    fused = FusionGuider(scene, subject, borders=Borders(0, 1))
    scene_alone = comfy.samplers.CFGGuider(scene)
    subject_alone = comfy.samplers.CFGGuider(subject)
    for guider in (fused, scene_alone):
        guider.set_conds(make_text(0), make_text(1))
    for guider in (fused.subject, subject_alone):
        guider.set_conds(make_text(2), make_text(3))
    fused.set_scales(SCALE, SCALE)
    scene_alone.set_cfg(SCALE)
    subject_alone.set_cfg(SCALE)
    alone = time_prediction(scene_alone, latent, rounds) + time_prediction(subject_alone, latent, rounds)
    return time_prediction(fused, latent, rounds), alone


def time_step(latent: Tensor, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of both models' calls in a fused step, two rows each."""
    network = make_model(comfy.model_base.UNetModel, device, dtype).model.diffusion_model
    for weight in network.parameters():
        weight.fill_(0.01)  # fresh memory may hold denormal numbers, which are slow
    x = latent.to(device, dtype).expand(2, -1, -1, -1)
    context = torch.zeros(2, TOKENS, UNET["context_dim"], device=device, dtype=dtype)

    def call():
        network(x, torch.full((2,), 500.0, device=device), context)
    if device.type == "cuda":
        call()
    return 2 * time_call(call, device)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="dev.py bench face_diffuser", description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=512, help="side of the image (default: 512)")
    parser.add_argument("--rounds", type=int, default=40, help="predictions measured (default: 40)")
    options = parser.parse_args(argv)
    if options.pixels < 64 or options.pixels % 64 or options.rounds < 1:
        parser.error("--pixels must be a multiple of 64, and --rounds at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(1)
    side = options.pixels // 8
    latent = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused, alone = measure_overhead(latent, options.rounds, device, dtype)
        models = time_step(latent, device, dtype)
    share = (fused - alone) / models
    print(f"{dtype} on {device.type}, {options.pixels} px: the guider takes {1000 * (fused - alone):.2f} ms of a fused "
          f"step of {models:.2f} s, {share:.4%}")
    print(json.dumps({"bench": "face_diffuser", "pixels": options.pixels, "fused_s": fused, "alone_s": alone,
                      "step_s": models, "share": share}))


if __name__ == "__main__":
    main()
