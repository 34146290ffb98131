"""Fits a line without random numbers: ``python fit_line.py OUT BATCH ACCUMULATE``, also under torchrun."""
import logging
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file

from mdit.training.host import prepare_host

prepare_host()

from mdit.training.optimizers import make_optimizers
from mdit.training.settings import Settings
from mdit.training.targets.base import Batches, Target
from mdit.training.trainer import Trainer, make_accelerator

SAMPLES = 24


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.trained = nn.Linear(3, 1)

    def forward(self, x, y, rng):
        return F.mse_loss(self.trained(self.frozen(x))[:, 0], y)


class LineTarget(Target):
    def __init__(self, settings):
        self.settings = settings
        self.module = Line()
        self.batches = Batches([0] * SAMPLES, settings.batch, settings.seed)
        rng = torch.Generator().manual_seed(1)
        self.x = torch.randn(SAMPLES, 3, generator=rng)
        self.y = torch.randn(SAMPLES, generator=rng)

    def build_optimizers(self):
        return make_optimizers(self.settings.optimiser, [], [{"params": list(self.module.trained.parameters())}])

    def make_batch(self, step, process, processes):
        index = self.batches(step, process, processes)
        return {"x": self.x[index], "y": self.y[index]}

    def draw_sheet(self):
        return None

    def measure(self):
        return {}

    def save(self, path, weights):
        save_file(weights, path)


def main(out: Path, batch: int, accumulate: int) -> None:
    """Trains three steps, then resumes to the sixth."""
    for steps in (3, 6):
        settings = Settings(target="line", data=out, output=out / "run", weights=out / "line.safetensors", steps=steps,
                            batch=batch, accumulate=accumulate,
                            optimiser={"adamw": 0.1}, schedule={"warmup": 1}, ema=0.5, precision="no",
                            every={"log": 1, "checkpoint": 3})
        accelerator = make_accelerator(settings)
        accelerator.end_training = accelerator.wait_for_everyone  # the next run needs the processes' group
        Trainer(LineTarget(settings), accelerator).fit()
    Accelerator.end_training(accelerator)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
