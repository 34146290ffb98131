"""Train the stand-alone model: ``python -m mdit.training.train CONFIG.yaml --data TRAIN --heldout HELDOUT``."""
from __future__ import annotations

import argparse
import copy
import csv
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from .host import set_training  # before any other module of the host
import comfy.ops

from ..labelmap import PALETTE
from ..mditface.config import MDiTConfig
from ..mditface.attention import MaskRows
from ..mditface.model import MIN_SIGMA, MDiT
from ..mditface.text import PAD, TextConfig, TextEncoder
from .data import Faces, LabelNoise, mirror
from .initialise import initialise_model, initialise_text
from .sampling import mask_inputs, sample, save_sheet
from .words import CaptionWriter, pretrain, text_config

WEIGHTS = Path(__file__).parents[1] / "mditface" / "weights" / "mditface-demo.safetensors"
MEAN_LOGIT_T = -0.5  # t = 1 - sigma is the sigmoid of a normal with this mean and deviation 1
LOSS_SIGMA = 0.15    # below it the velocity error would weigh the last details too much
MASKED = -1e4
CHECKPOINT_STEPS, SHEET_STEPS = 200, 400
ADAM = dict(betas=(0.9, 0.95), weight_decay=0.0)


class Demo(nn.Module):
    """The model with its text encoder; its state dict is the shipped file's."""

    def __init__(self, config: MDiTConfig, text: TextConfig):
        super().__init__()
        self.text_config = text
        self.model = MDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        self.text_encoder = TextEncoder(text, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        initialise_model(self.model)
        initialise_text(self.text_encoder)

    @classmethod
    def load(cls, path: Path) -> Demo:
        """Reads what `save` wrote."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            sd = {name if name.startswith("text_encoder.") else f"model.{name}": file.get_tensor(name)
                  for name in file.keys()}
        demo = cls(MDiTConfig.from_metadata(metadata), TextConfig.from_metadata(metadata))
        demo.load_state_dict(sd)
        return demo.eval()

    def save(self, path: Path) -> None:
        sd = {name.removeprefix("model."): w.half().contiguous() for name, w in self.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(sd, path, self.model.config.to_metadata() | self.text_config.to_metadata())


def velocity_loss(demo: Demo, images: Tensor, labels: Tensor, ids: Tensor, read_mask: Tensor, rng: torch.Generator
                  ) -> Tensor:
    """Mean squared velocity error of one step.

    images: (B, 3, S, S) in [-1, 1]; labels: (B, S, S); ids: (B, L); read_mask: (B,) bool.
    """
    model, batch = demo.model, images.shape[0]
    sigma = 1 - torch.sigmoid(torch.randn(batch, generator=rng) + MEAN_LOGIT_T)
    level = sigma.view(-1, 1, 1, 1)
    noise = torch.randn(images.shape, generator=rng)
    noisy = level * noise + (1 - level) * images
    tokens, places = mask_inputs(labels, model)
    kv = list(model.static_path(tokens, places))
    bias = torch.where(read_mask, 0.0, MASKED)[:, None].expand(-1, tokens.shape[1])
    context, y = demo.text_encoder(ids)
    velocity = model(noisy, sigma, context, y, [MaskRows(slice(None), kv, bias)]).float()
    clean = noisy - velocity * level.clamp(min=MIN_SIGMA)
    return ((clean - images) / level.clamp(min=LOSS_SIGMA)).square().mean()


def make_optimisers(demo: Demo, muon_lr: float, adam_lr: float, text_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    matrices = [w for name, w in demo.model.blocks.named_parameters() if w.ndim == 2 and ".mod." not in name]
    chosen = {id(w) for w in matrices}
    rest = [w for w in demo.model.parameters() if id(w) not in chosen]
    return [torch.optim.Muon(matrices, muon_lr),
            torch.optim.AdamW([{"params": rest}, {"params": demo.text_encoder.parameters(), "lr": text_lr}],
                              adam_lr, **ADAM)]


def rate(step: int, progress: float, warmup: int, decay: float) -> float:
    """Share of the learning rates at a step and share of the run: a ramp, a plateau, and a fall to zero."""
    return max(0.0, min((step + 1) / warmup, 1.0, (1 - progress) / decay))


@dataclass(frozen=True)
class Length:
    """Length of a run, in steps or in minutes of wall clock. On a shared machine only the latter ends in time."""
    steps: int | None
    minutes: float | None

    def progress(self, step: int, seconds: float) -> float:
        return step / self.steps if self.steps else seconds / (60 * self.minutes)


class Trainer:
    """State of one run; everything that a checkpoint holds."""

    def __init__(self, settings: dict, faces: Faces, run: Path):
        torch.manual_seed(settings["seed"])
        self.settings, self.faces, self.run = settings, faces, run
        config = MDiTConfig(**settings["model"], palette=PALETTE)
        text = text_config(config.text_dim)
        self.demo = Demo(config, text)
        self.ema = copy.deepcopy(self.demo).requires_grad_(False)
        self.optimisers = make_optimisers(self.demo, *(settings[k] for k in ("muon_lr", "adam_lr", "text_lr")))
        self.base_rates = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        self.rng = torch.Generator().manual_seed(settings["seed"])
        self.writer = CaptionWriter(text, settings["seed"])
        self.noise = LabelNoise()
        self.step, self.seconds = 0, 0.0
        self.order: list[int] = []

    def next_indices(self) -> Tensor:
        """A batch without repetition inside an epoch; new shards are taken in at its end."""
        batch = self.settings["batch"]
        if len(self.order) < batch:
            self.faces.rescan()
            self.order = torch.randperm(len(self.faces), generator=self.rng).tolist()
        chosen, self.order = self.order[:batch], self.order[batch:]
        return torch.tensor(chosen)

    def chance(self, p: float) -> Tensor:
        return torch.rand(self.settings["batch"], generator=self.rng) < p

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        index = self.next_indices()
        images, labels = mirror(self.faces.pictures(index), self.faces.labels[index], self.chance(0.5))
        ids = self.writer([self.faces.attributes[i] for i in index])
        ids[self.chance(self.settings["drop_text"])] = PAD
        return images, self.noise(labels, self.rng), ids, ~self.chance(self.settings["drop_mask"])

    def advance(self, progress: float) -> float:
        """One optimisation step at a share of the run; returns its loss."""
        started = time.monotonic()
        scale = rate(self.step, progress, self.settings["warmup"], self.settings["decay"])
        for optimiser, rates in zip(self.optimisers, self.base_rates):
            for group, lr in zip(optimiser.param_groups, rates):
                group["lr"] = lr * scale
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # the fused backward is slow
            loss = velocity_loss(self.demo, *self.batch(), self.rng)
            loss.backward()
        nn.utils.clip_grad_norm_(self.demo.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.update_average()
        self.step += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    def update_average(self) -> None:
        weight = 1 - min(self.settings["ema"], (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.parameters()), [w.detach() for w in self.demo.parameters()], weight)

    def save(self) -> None:
        state = {"demo": self.demo.state_dict(), "ema": self.ema.state_dict(), "step": self.step,
                 "seconds": self.seconds, "optimisers": [o.state_dict() for o in self.optimisers]}
        scratch = self.run / "checkpoint.part"
        torch.save(state, scratch)
        scratch.replace(self.run / "checkpoint.pt")

    def resume(self) -> bool:
        """Continues from the run's checkpoint, if there is one; its random draws start anew."""
        path = self.run / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.demo.load_state_dict(state["demo"])
        self.ema.load_state_dict(state["ema"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.rng.manual_seed(self.settings["seed"] + self.step)
        return True

    def start_text(self) -> None:
        pretrain(self.demo.text_encoder, self.writer, self.settings["text_steps"])
        self.ema.text_encoder.load_state_dict(self.demo.text_encoder.state_dict())

    def sheet(self, heldout: Faces, count: int = 12) -> None:
        labels = heldout.labels[:count]
        images = sample(self.ema.model, self.ema.text_encoder, labels, self.writer.encode(heldout.captions[:count]), 0)
        save_sheet(self.run / f"sheet-{self.step:05d}.png", labels, images, heldout.images[:count])


def fit(trainer: Trainer, heldout: Faces, length: Length) -> None:
    """Runs to the end, with a log, checkpoints and sample sheets on the way."""
    mean = None
    bar = tqdm(initial=trainer.step, mininterval=10)
    with open(trainer.run / "log.csv", "a", newline="") as file:
        log = csv.writer(file)
        while (progress := length.progress(trainer.step, trainer.seconds)) < 1:
            loss = trainer.advance(progress)
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            bar.set_postfix(loss=f"{mean:.4f}", done=f"{progress:.0%}", refresh=False)
            bar.update()
            if trainer.step % 20 == 0:
                log.writerow([trainer.step, f"{mean:.5f}", f"{trainer.seconds:.1f}"])
                file.flush()
            if trainer.step % CHECKPOINT_STEPS == 0:
                trainer.save()
            if trainer.step % SHEET_STEPS == 0:
                trainer.sheet(heldout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mdit.training.train", description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of training shards")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of shards for the sample sheets")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of checkpoint, log and sheets")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="the finished model")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    set_training()
    args.run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(yaml.safe_load(args.config.read_text()), Faces(args.data), args.run)
    if not trainer.resume():
        trainer.start_text()
    heldout = Faces(args.heldout)
    fit(trainer, heldout, Length(args.steps, args.minutes))
    trainer.sheet(heldout)
    trainer.ema.save(args.out)


if __name__ == "__main__":
    main()
