"""Tiny targets of the laboratory."""
from mditface.mdit.recipes.targets.kinds import (
    AutoencoderSettings, AutoencoderTarget, DemoSettings, DemoTarget, DynaSTSettings, DynaSTTarget, JudgeSettings,
    JudgeTarget,
)
from mditface.tests.training.tiny_targets import COMMON, adapter

SIDE = 32
MODEL = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "in_channels": 3, "text_dim": 32, "pooled_dim": 32,
         "mlp_ratio": (2, 1, 1), "mask_cells": 4, "prediction": "clean", "rope_theta": 100.0, "resolution": SIDE}
LATENT = MODEL | {"latent_format": "autoencoder", "patch": 1, "in_channels": 12, "resolution": 32, "mask_cells": 4}
DEMO = COMMON | {"target": "demo", "text_steps": 2, "text_rate": 0.0005, "model": MODEL,
                 "optimiser": {"muon": 0.01, "adamw": 0.0015}}
JUDGE = COMMON | {"target": "judge", "optimiser": {"adamw": 0.003}}
AUTOENCODER = COMMON | {"target": "autoencoder", "crop": 32, "optimiser": {"adamw": 0.002}}
POLISH = COMMON | {"target": "polish", "crop": 32, "redrawn": 12, "levels": 2, "optimiser": {"adamw": 0.001}}
DYNAST = COMMON | {"target": "dynast", "size": 48, "load": 56, "ema": 0, "discriminator": 4,
                   "model": {"ngf": 4, "max_multi": 2, "pos_dim": 2, "prune_dim": 2, "top_k": 3},
                   "optimiser": {"generator": 0.005, "discriminator": 0.005}}


def target_of(name, paths, **changes):
    """A target like each time before, but for the changes."""
    kinds = {"demo": (DemoTarget, DemoSettings, DEMO), "judge": (JudgeTarget, JudgeSettings, JUDGE),
             "dynast": (DynaSTTarget, DynaSTSettings, DYNAST),
             "autoencoder": (AutoencoderTarget, AutoencoderSettings, AUTOENCODER)}
    if name not in kinds:
        return adapter(paths, name)
    target, settings, values = kinds[name]
    return target(settings(**values | changes, **paths))
