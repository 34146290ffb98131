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


def patterns(runs: list[dict], timestep) -> tuple[Tensor, Tensor] | None:
    """P_T and P_S, whose constants differ between sets, from the steps that one model made alone; None without such.

    timestep: of a noise level sigma.
    """
    scene = [(noise - scene_base(x, channels(x))) / (scale * scene_weight(tau)) - 0.05 * x
             for run in runs for x, tau, noise, scale in list_steps(run, 0, timestep)]
    if not scene:
        return None
    scene = torch.stack(scene).mean(0)
    subject = [(noise - subject_base(x, channels(x), tau, scene)) / (scale * subject_weight(x, tau))
               for run in runs for x, tau, noise, scale in list_steps(run, 2, timestep)]
    return (scene.float(), torch.stack(subject).mean(0).float()) if subject else None


def list_steps(run: dict, stage: int, timestep):
    """The network's input, time (timestep / 1000), guided noise and guidance scale of each step of a stage that the
    set stores, in double precision."""
    after = {-1: run.get("start_latent", run["noise"])}
    after |= {int(key[4:6]): latent for key, latent in run.items() if key.endswith(".latent_out")}
    after[len(run["stage"]) - 1] = run["final"]
    for i in range(len(run["stage"])):
        if run["stage"][i] == stage and i - 1 in after and (i in after or f"step{i:02d}.eps" in run):
            x, sigma, noise = read_step(run, i, after)
            yield x, timestep(sigma.float()).double() / 1000, noise, run["config"][3].double()


def read_step(run: dict, i: int, after: dict) -> tuple[Tensor, Tensor, Tensor]:
    """The network's input, the noise level and the guided noise of a step, of DDIM or of Euler in noise levels."""
    before, noise = after[i - 1].double(), run.get(f"step{i:02d}.eps")
    if "sigmas" in run:
        sigma, end = run["sigmas"][i:i + 2].double()
        x, kept, added = before / (sigma ** 2 + 1).sqrt(), 1, end - sigma
    else:
        a, b = run["alpha_bar"][i:i + 2].double()
        sigma, x, kept = ((1 - a) / a).sqrt(), before, (b / a).sqrt()
        added = (1 - b).sqrt() - (b * (1 - a) / a).sqrt()
    noise = (after[i].double() - kept * before) / added if noise is None else noise.double()
    return x, sigma, noise
