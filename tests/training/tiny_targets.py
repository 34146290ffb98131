"""Tiny adapters to train, their data and their runs."""
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState

from mditface.mdit.labelmap import PALETTE
from mditface.mdit.training.targets.adapter import AdapterSettings, AdapterTarget
from mditface.mdit.training.trainer import Trainer, make_accelerator, enable_training
from mditface.tests.adapter import bases

EVERY = {"log": 1, "checkpoint": 2, "sheet": 100, "metrics": 100}
COMMON = {"steps": 4, "batch": 4, "schedule": {"warmup": 1}, "ema": 0.9, "every": EVERY}
ADAPTER = COMMON | {"target": "adapter", "base": "tiny.safetensors", "rank": 2, "alpha": 4, "precision": "no",
                    "optimiser": {"adamw": 0.02}, "schedule": {"warmup": 1, "decay": 0.1}}
FAMILIES = ("sd3", "sd35", "flux", "flux2", "chroma", "qwen-image", "z-image")


@contextmanager
def trainer_state():
    """A host that trains, and an accelerator that the next test may make with another precision."""
    with enable_training():
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run_paths(folder, data):
    return {"data": data, "heldout": data, "output": folder / "run", "weights": folder / "out" / "weights.safetensors"}


class VAE(bases.AveragingVAE):
    """Shows a latent's first channels."""

    def decode(self, latents):
        return latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3).movedim(1, -1)


def tiny_base(family):
    with torch.inference_mode(False):
        return bases.load(bases.published(family), family)


def encoded_faces(count):
    """Samples whose latent shows their mask: only a model that reads the mask can know it."""
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


def fitted(target, stop=None):
    """The target's trainer after a run. stop: number of the step after which the run is interrupted."""
    trainer = Trainer(target, make_accelerator(target.settings))
    trainer.fit(lambda step, loss: trainer.stop() if step == stop else None)
    return trainer


def loss_on_fixed_batch(target, seed=1):
    with torch.no_grad():
        return target.module(**target.make_batch(0, 0, 1), rng=torch.Generator().manual_seed(seed)).item()
