"""The loop: steps, log, sheets, measurements, checkpoints; the same on one core and on many machines."""
from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, send_to_device
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import comfy.model_management

from .average import Average
from .data import step_rng, torch_rng
from .settings import Schedule, Settings
from .targets.base import Target

KEPT = 2  # checkpoints
STATE, AVERAGE = "state.json", "average.safetensors"
NOISE = 1  # beside the step's batch, the loss has random numbers of its own


def rate(step: int, steps: int, schedule: Schedule) -> float:
    """Share of the learning rates at a step of a run: a ramp, a plateau, and a fall to zero."""
    left = min(1.0, (1 - step / steps) / schedule.decay)
    fall = left if schedule.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return min((step + 1) / schedule.warmup, fall)


def make_accelerator(settings: Settings) -> Accelerator:
    """Where and how precisely the run computes; `accelerate launch` says on how many devices."""
    unread = DistributedDataParallelKwargs(find_unused_parameters=True)  # nobody reads text and mask after the blocks
    return Accelerator(mixed_precision=settings.precision, log_with="tensorboard", project_dir=settings.output,
                       kwargs_handlers=[unread])


class Steps(Dataset):
    """Batches by step."""

    def __init__(self, target: Target, process: int, processes: int):
        self.target, self.place = target, (process, processes)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.target.batch(step, *self.place)


class Trainer:
    """One run of a target. A second one with the same settings goes on from the first one's last checkpoint."""

    def __init__(self, target: Target, accelerator: Accelerator):
        self.target, self.settings, self.accelerator = target, target.settings, accelerator
        self.step, self.average = 0, None
        if accelerator.distributed_type == DistributedType.FSDP and self.settings.ema:
            raise ValueError("ema: the average cannot be kept when FSDP shards the weights; set ema: 0")

    @property
    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, the last one last."""
        found = (self.settings.output / "checkpoints").glob("step-*")
        return sorted((path for path in found if path.suffix != ".part"), key=lambda path: int(path.name[5:]))

    def prepare(self) -> None:
        """Readies the first step, or the one after the last checkpoint."""
        self.settings.output.mkdir(parents=True, exist_ok=True)
        if not self.checkpoints:
            self.target.start()
        module, accelerator = self.target.module, self.accelerator
        self.frozen = [name for name, w in module.named_parameters() if not w.requires_grad]
        self.trained = [w for w in module.parameters() if w.requires_grad]
        self.module, *self.optimisers = accelerator.prepare(module, *self.target.optimisers())
        self.base_rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        self.average = Average(module, self.settings.ema)
        accelerator.register_save_state_pre_hook(self.drop_frozen)
        if self.checkpoints:
            self.load_checkpoint(self.checkpoints[-1])
        accelerator.init_trackers("log")

    def fit(self, report: Callable[[int, float], None] | None = None) -> None:
        """Runs to the end, then writes the finished file. Stops early, with a checkpoint, after `stop`.

        `report(step, loss)` is called after each step of the main process.
        """
        with training():
            self.prepare()
            start, steps = self.step, self.settings.steps
            losses = []
            for batch in tqdm(self.batches(), initial=start, total=steps, mininterval=5,
                              disable=not self.accelerator.is_main_process):
                terms = self.advance(batch)
                losses.append(terms)
                if self.step % self.settings.every.log == 0:
                    self.log({name: torch.stack([step[name] for step in losses]).mean().item() for name in losses[0]})
                    losses.clear()
                if report:
                    report(self.step, terms["loss"].item())
                self.look()
                if self.accelerator.check_trigger():
                    break
            if self.step > start:
                self.save_checkpoint()
            if self.step >= steps:
                self.finish()
        self.accelerator.end_training()

    def stop(self, *signal) -> None:
        """Lets the run end after the current step; serves as a handler of signals."""
        self.accelerator.set_trigger()

    def batches(self) -> DataLoader:
        """Of the steps to come."""
        steps = Steps(self.target, self.accelerator.process_index, self.accelerator.num_processes)
        return DataLoader(steps, batch_size=None, sampler=range(self.step, self.settings.steps),
                          num_workers=self.settings.workers, generator=torch.Generator())

    def advance(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One optimisation step; returns its loss and, where the module names them, the loss's terms."""
        accelerator, settings = self.accelerator, self.settings
        scale = rate(self.step, settings.steps, settings.schedule)
        for optimiser, rates in zip(self.optimisers, self.base_rates):
            for group, lr in zip(optimiser.param_groups, rates):
                group["lr"] = lr * scale
        rng = torch_rng(step_rng(settings.seed, self.step, accelerator.process_index, NOISE), accelerator.device)
        with kernels(accelerator.device):
            made = self.module(**send_to_device(batch, accelerator.device), rng=rng)
        terms = made if isinstance(made, dict) else {"loss": made}
        loss = sum(terms.values())
        accelerator.backward(loss)
        if settings.optimiser.clip:
            accelerator.clip_grad_norm_(self.trained, settings.optimiser.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.step)
        self.step += 1
        return {name: x.detach() for name, x in {**terms, "loss": loss}.items()}

    def look(self) -> None:
        """What is due after this step."""
        every = self.settings.every
        if self.step % every.checkpoint == 0:
            self.save_checkpoint()
        if self.accelerator.is_main_process and self.step < self.settings.steps:
            self.show(self.step % every.sheet == 0, self.step % every.metrics == 0)

    def show(self, sheet: bool, metrics: bool) -> None:
        """Writes a sample sheet and measurements of the averaged weights."""
        with self.average.applied(), torch.no_grad():
            picture = self.target.sheet() if sheet else None
            measured = self.target.metrics() if metrics else {}
        if picture is not None:
            folder = self.settings.output / "sheets"
            folder.mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / f"{self.step:06d}.png")
            for tracker in self.accelerator.trackers:
                tracker.log_images({"sheet": picture[None]}, self.step, dataformats="NHWC")
        if measured:
            self.log(measured)

    def log(self, values: dict[str, float]) -> None:
        """To tensorboard, and as a line of log.jsonl."""
        self.accelerator.log(values, self.step)
        if self.accelerator.is_main_process:
            with open(self.settings.output / "log.jsonl", "a") as file:
                file.write(json.dumps({"step": self.step} | values) + "\n")

    def finish(self) -> None:
        """The last sheet and measurements, and the finished file."""
        with self.average.applied():
            weights = self.accelerator.get_state_dict(self.module)
            if self.accelerator.is_main_process:
                self.target.save(self.settings.weights, {name: w.detach().cpu() for name, w in weights.items()})
        if self.accelerator.is_main_process:
            self.show(sheet=True, metrics=True)
            logging.info("wrote %s", self.settings.weights)

    def drop_frozen(self, modules: list, weights: list[dict[str, Tensor]], folder: str) -> None:
        """Keeps the base model out of the checkpoint."""
        for state in weights:
            for name in self.frozen:
                state.pop(name, None)

    def save_checkpoint(self) -> None:
        """Writes a folder that appears under its name only when it is whole, and removes all but the last ones."""
        folder = self.settings.output / "checkpoints" / f"step-{self.step:06d}"
        part = folder.with_suffix(".part")
        if folder.exists():
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(part)
        if self.accelerator.is_main_process:
            self.average.save(part / AVERAGE)
            (part / STATE).write_text(json.dumps({"step": self.step, "recipe": self.settings.recipe()}, indent=1))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            part.rename(folder)
            for old in self.checkpoints[:-KEPT]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self, folder: Path) -> None:
        """Raises ValueError where the checkpoint belongs to a run of another recipe."""
        state, recipe = json.loads((folder / STATE).read_text()), self.settings.recipe()
        if changed := [key for key in recipe if recipe[key] != state["recipe"].get(key)]:
            raise ValueError(f"output: {self.settings.output} holds a run with other values of {', '.join(changed)}: "
                             "use another folder, or the old values to resume that run")
        self.accelerator.load_state(folder, strict=False)  # without the frozen weights
        self.average.load(folder / AVERAGE)
        self.step = state["step"]


@contextlib.contextmanager
def training() -> Iterator[None]:
    """Inside, the host takes operations with a gradient."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def kernels(device: torch.device) -> contextlib.AbstractContextManager:
    """The attention to train with: on a CPU the fused one's backward is slow."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()
