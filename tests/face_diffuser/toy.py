"""The two noise predictors of tests/golden/face-diffuser/README.md, section 6, as models of the host."""
from __future__ import annotations

import functools

import torch
from torch import Tensor

import comfy.model_base
import comfy.supported_models
from comfy.model_patcher import ModelPatcher
from mditface.tests.face_diffuser.tiny import CPU


def scene_base(x: Tensor, k: Tensor) -> Tensor:
    return 0.94 * x + 0.10 * torch.sin(3 * x + k)


def scene_weight(tau: Tensor) -> Tensor:
    return 0.25 + 0.15 * tau


def subject_base(x: Tensor, k: Tensor, tau: Tensor, of_scene: Tensor) -> Tensor:
    return 0.92 * x - 0.08 * torch.sin(2 * x - k) + 0.2 * (0.5 + tau) * of_scene


def subject_weight(x: Tensor, tau: Tensor) -> Tensor:
    return (0.40 - 0.20 * tau) * (1 + 0.1 * torch.cos(x))


def channels(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], dtype=x.dtype).reshape(1, -1, 1, 1)


class Toy(torch.nn.Module):
    """The context's mean is p or q, 0 or 1; the patterns P_T and P_S are (1, C, H, W)."""
    dtype = torch.float32

    def __init__(self, of_scene: Tensor, of_subject: Tensor | None = None, **_):
        super().__init__()
        self.of_scene, self.of_subject = of_scene, of_subject

    def forward(self, x, timesteps, context, **_):
        k, tau = channels(x), (timesteps / 1000).reshape(-1, 1, 1, 1)
        given = context.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        if self.of_subject is None:
            return scene_base(x, k) + given * scene_weight(tau) * (self.of_scene + 0.05 * x)
        return subject_base(x, k, tau, self.of_scene) + given * subject_weight(x, tau) * self.of_subject


def toys(of_scene: Tensor, of_subject: Tensor) -> tuple[ModelPatcher, ModelPatcher]:
    """MODELs of scene and subject."""
    config = comfy.supported_models.SD15({"dtype": torch.float32})
    networks = functools.partial(Toy, of_scene), functools.partial(Toy, of_scene, of_subject)
    return tuple(ModelPatcher(comfy.model_base.BaseModel(config, device=CPU, unet_model=network), CPU, CPU)
                 for network in networks)


def given(value: float) -> list:
    """A CONDITIONING for the toys."""
    return [[torch.full((1, 1, 1), value), {}]]


def patterns(cases, timestep) -> tuple[Tensor, Tensor]:
    """P_T and P_S, whose constants differ between sets, from the steps that one model made alone in DDIM runs.

    timestep: of a noise level sigma.
    """
    cases = [case for case in cases if "alpha_bar" in case and "noise" in case]
    scene = torch.stack([(noise - scene_base(x, channels(x))) / (scale * scene_weight(tau)) - 0.05 * x
                         for case in cases for x, tau, noise, scale in alone(case, 0, timestep)]).mean(0)
    subject = torch.stack([(noise - subject_base(x, channels(x), tau, scene)) / (scale * subject_weight(x, tau))
                           for case in cases for x, tau, noise, scale in alone(case, 2, timestep)]).mean(0)
    return scene.float(), subject.float()


def alone(case: dict, stage: int, timestep):
    """Latent, time (timestep / 1000), guided noise and guidance scale of each step of a stage whose latents are stored,
    in double precision."""
    latents = {-1: case["noise"]}
    latents |= {int(key[4:6]): latent for key, latent in case.items() if key.endswith(".latent_out")}
    alphas = case["alpha_bar"].double()
    for i, (a, b) in enumerate(zip(alphas, alphas[1:])):
        if case["stage"][i] == stage and {i - 1, i} <= latents.keys():
            x, after = latents[i - 1].double(), latents[i].double()
            noise = (after - (b / a).sqrt() * x) / ((1 - b).sqrt() - (b * (1 - a) / a).sqrt())
            yield x, timestep(((1 - a) / a).sqrt().float()).double() / 1000, noise, case["config"][3].double()
