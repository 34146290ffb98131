"""What the saliency fusion guider costs beside its two models.

    python dev.py bench face_diffuser [--pixels 512] [--rounds 40]

A fused step is compared with the two models' guided predictions alone, each by the host's own guider, with networks
that take no time: the difference is the guider's own. The step itself is a call of Stable Diffusion 1.5's UNet at full
size with two rows (guidance) for each model; weights do not matter to the time. Without CUDA, CPU seconds of one
thread, which other programs disturb least. The last line printed is one JSON object: seconds, and the share of a
step.
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

from .costs.measure import seconds

UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], context_dim=768, num_heads=8,
            num_head_channels=-1, use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False)
TOKENS = 77
SIGMA = 1.0


class Nothing(torch.nn.Module):
    """A network that takes no time; other texts give other predictions."""

    def __init__(self, dtype: torch.dtype, **_):
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **_) -> Tensor:
        return x * context[:, :1, :1, None]


class Timer:
    """A sampler that measures a guider's prediction."""

    def __init__(self, x: Tensor, rounds: int):
        self.x, self.rounds = x, rounds

    def sample(self, guider, sigmas, extra_args, callback, noise, *args) -> Tensor:
        x = self.x.to(noise.device)
        sigma = sigmas[:1].expand(len(x))
        self.seconds = [seconds(lambda: guider(x, sigma, **extra_args), noise.device) for _ in range(self.rounds)]
        return noise


def text(seed: int) -> list:
    return [[torch.randn(1, TOKENS, UNET["context_dim"], generator=torch.Generator().manual_seed(seed)), {}]]


def model(network: type, device: torch.device, dtype: torch.dtype) -> ModelPatcher:
    config = comfy.supported_models.SD15({**UNET, "dtype": dtype})
    return ModelPatcher(comfy.model_base.BaseModel(config, device=device, unet_model=network), device, device)


def prediction(guider: comfy.samplers.CFGGuider, latent: Tensor, rounds: int) -> float:
    """Median seconds of a guider's prediction."""
    timer = Timer(latent, rounds)
    guider.sample(torch.zeros_like(latent), torch.zeros_like(latent), timer, torch.tensor([SIGMA, 0.0]))
    return float(np.median(timer.seconds))


def overhead(latent: Tensor, rounds: int, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a fused prediction and of the two models' own, with networks that take no time."""
    models = [model(Nothing, device, dtype) for _ in range(2)]
    pairs = [(text(0), text(1)), (text(2), text(3))]
    fused = FusionGuider(*models, borders=Borders(0, 1))
    fused.set_conds(*pairs[0])
    fused.subject.set_conds(*pairs[1])
    fused.set_scales(5.0, 5.0)
    alone = [comfy.samplers.CFGGuider(patcher) for patcher in models]
    for guider, pair in zip(alone, pairs):
        guider.set_conds(*pair)
        guider.set_cfg(5.0)
    return prediction(fused, latent, rounds), sum(prediction(guider, latent, rounds) for guider in alone)


def step(latent: Tensor, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of both models' calls in a fused step, two rows each."""
    network = model(comfy.model_base.UNetModel, device, dtype).model.diffusion_model
    for weight in network.parameters():
        weight.fill_(0.01)  # what lies in fresh memory may be denormal, and slow
    x = latent.to(device, dtype).expand(2, -1, -1, -1)
    context = torch.zeros(2, TOKENS, UNET["context_dim"], device=device, dtype=dtype)

    def call():
        network(x, torch.full((2,), 500.0, device=device), context)
    if device.type == "cuda":
        call()
    return 2 * seconds(call, device)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="dev.py bench face_diffuser", description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=512, help="side of the picture (default: 512)")
    parser.add_argument("--rounds", type=int, default=40, help="predictions measured (default: 40)")
    options = parser.parse_args(argv)
    if options.pixels < 64 or options.pixels % 64 or options.rounds < 1:
        parser.error("--pixels must be a multiple of 64, and --rounds at least 1")
    device, dtype = torch.device("cpu"), torch.float32
    if torch.cuda.is_available():
        device, dtype = torch.device("cuda"), torch.float16
    torch.set_num_threads(1)
    latent = torch.randn(1, 4, *[options.pixels // 8] * 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused, alone = overhead(latent, options.rounds, device, dtype)
        models = step(latent, device, dtype)
    share = (fused - alone) / models
    print(f"{dtype} on {device.type}, {options.pixels} px: the guider's own {1000 * (fused - alone):.2f} ms of a fused "
          f"step of {models:.2f} s, {share:.4%}")
    print(json.dumps({"bench": "face_diffuser", "pixels": options.pixels, "fused_s": fused, "alone_s": alone,
                      "step_s": models, "share": share}))


if __name__ == "__main__":
    main()
