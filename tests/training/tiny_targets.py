"""Tiny targets of the trainer, their data and their runs."""
import torch

from mditface.mdit.labelmap import PALETTE
from mditface.mdit.recipes.targets.kinds import (
    AdapterSettings, AdapterTarget, DemoSettings, DemoTarget, DynaSTSettings, DynaSTTarget, JudgeSettings, JudgeTarget,
)
from mditface.mdit.training.trainer import Trainer, make_accelerator
from mditface.tests.adapter import bases

SIDE = 32
MODEL = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "in_channels": 3, "text_dim": 32, "pooled_dim": 32,
         "mlp_ratio": (2, 1, 1), "mask_cells": 4, "prediction": "clean", "rope_theta": 100.0}
EVERY = {"log": 1, "checkpoint": 2, "sheet": 100, "metrics": 100}
COMMON = {"steps": 4, "batch": 4, "schedule": {"warmup": 1}, "ema": 0.9, "every": EVERY}
DEMO = COMMON | {"target": "demo", "text_steps": 2, "text_rate": 0.0005, "model": MODEL,
                 "optimiser": {"muon": 0.01, "adamw": 0.0015}}
JUDGE = COMMON | {"target": "judge", "optimiser": {"adamw": 0.003}}
ADAPTER = COMMON | {"target": "adapter", "base": "tiny.safetensors", "rank": 2, "alpha": 4, "precision": "no",
                    "optimiser": {"adamw": 0.02}, "schedule": {"warmup": 1, "decay": 0.1}}
DYNAST = COMMON | {"target": "dynast", "size": 48, "load": 56, "ema": 0, "discriminator": 4,
                   "model": {"ngf": 4, "max_multi": 2, "pos_dim": 2, "prune_dim": 2, "top_k": 3},
                   "optimiser": {"generator": 0.005, "discriminator": 0.005}}
FAMILIES = ("sd3", "sd35", "flux")


class VAE(bases.AveragingVAE):
    """Shows a latent's first channels."""

    def decode(self, latents):
        return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3).movedim(1, -1)


def tiny_base(family):
    with torch.inference_mode(False):
        return bases.load(bases.published(family))


def encoded_faces(count):
    """Samples whose latent is their mask's picture: what only a model that reads the mask can know."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 19, (count, 4, 4), generator=rng, dtype=torch.uint8)
    labels = labels.repeat_interleave(bases.SIDE // 4, 1).repeat_interleave(bases.SIDE // 4, 2)
    latents = bases.VAE.encode(torch.tensor(PALETTE)[labels.long()] / 255)
    return [{"latent": latent, "mask_latent": latent, "labels": label,
             "context": torch.randn(5, bases.CONTEXT, generator=rng),
             "pooled": torch.randn(bases.POOLED, generator=rng)}
            for latent, label in zip(latents, labels)]


def adapter(paths, family="sd3", samples=None, **changes):
    samples = encoded_faces(8) if samples is None else samples
    return AdapterTarget(AdapterSettings(**ADAPTER | changes, **paths), tiny_base(family), samples, heldout=samples,
                         vae=VAE())


def target_of(name, paths):
    """A target like each time before."""
    kinds = {"demo": (DemoTarget, DemoSettings, DEMO), "judge": (JudgeTarget, JudgeSettings, JUDGE),
             "dynast": (DynaSTTarget, DynaSTSettings, DYNAST)}
    if name not in kinds:
        return adapter(paths, name)
    target, settings, values = kinds[name]
    return target(settings(**values, **paths))


def fitted(target, stop=None):
    """The target's trainer after a run, which `stop` ends after so many steps."""
    trainer = Trainer(target, make_accelerator(target.settings))
    trainer.fit(lambda step, loss: trainer.stop() if step == stop else None)
    return trainer


def loss_on_fixed_batch(target, seed=1):
    with torch.no_grad():
        return target.module(**target.batch(0, 0, 1), rng=torch.Generator().manual_seed(seed)).item()
