"""The training loop: steps, log, sheets, measurements, checkpoints; the same on one core and on many machines."""
from __future__ import annotations

import contextlib
import io
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

from ..shared.digests import compute_file_digest, digest_folder
from ..shared.text_files import parse_object, read_text
from .average import Average
from .data import make_step_rng, make_torch_rng
from .settings import CONTENT, Schedule, Settings
from .targets.base import Target

CHECKPOINTS = 2  # that a run leaves: the last one, and one to fall back on
STATE = "state.json"
LOG = "log.jsonl"
AVERAGE = "average.safetensors"
NOISE = 1  # tells the random numbers of the loss from those of the step's batch


def scale_rate(step: int, steps: int, schedule: Schedule) -> float:
    """Factor of the learning rates at a step of a run: a ramp, a plateau, and a fall to zero."""
    left = min(1.0, (1 - step / steps) / schedule.decay)
    fall = left if schedule.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return min((step + 1) / schedule.warmup, fall)


def make_accelerator(settings: Settings) -> Accelerator:
    """Device and precision of a run; `accelerate launch` decides the number of devices."""
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # after the blocks text and mask are not read
    return Accelerator(mixed_precision=settings.precision, log_with="tensorboard", project_dir=settings.output,
                       kwargs_handlers=[unused])


class Steps(Dataset):
    """The batches of one process, by step."""

    def __init__(self, target: Target, process: int, processes: int):
        self.target = target
        self.process = process
        self.processes = processes

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.target.make_batch(step, self.process, self.processes)


class Trainer:
    """One run of a target. A second run with the same settings resumes from the last checkpoint of the first."""

    def __init__(self, target: Target, accelerator: Accelerator):
        self.target = target
        self.settings = target.settings
        self.accelerator = accelerator
        self.step = 0
        self.saved = 0  # step of the last whole checkpoint
        self.average = None
        if accelerator.distributed_type == DistributedType.FSDP and self.settings.ema:
            raise ValueError("ema: no average can be made when FSDP shards the weights; set ema: 0")

    @property
    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, the last one last."""
        found = (self.settings.output / "checkpoints").glob("step-*")
        return sorted((path for path in found if path.suffix != ".part"), key=lambda path: int(path.name[5:]))

    def prepare(self) -> None:
        """Prepares the first step, or the step after the last checkpoint."""
        self.settings.output.mkdir(parents=True, exist_ok=True)
        state = self.find_checkpoint()
        if not state:
            self.target.start()
        module = self.target.module
        accelerator = self.accelerator
        self.frozen = [name for name, w in module.named_parameters() if not w.requires_grad]
        self.trained = [w for w in module.parameters() if w.requires_grad]
        self.module, *self.optimizers = accelerator.prepare(module, *self.target.build_optimizers())
        self.base_rates = [read_rates(optimizer) for optimizer in self.optimizers]
        self.average = Average(module, self.settings.ema)
        accelerator.register_save_state_pre_hook(self.drop_frozen)
        if state:
            self.load_checkpoint(self.checkpoints[-1], state)
        accelerator.init_trackers("log")

    def fit(self, report: Callable[[int, float], None] | None = None) -> None:
        """Runs to the end, then writes the finished file. After `stop` it ends early, with a checkpoint.

        `report(step, loss)` is called after each step of the main process.
        """
        with enable_training():
            self.prepare()
            start = self.step
            steps = self.settings.steps
            losses = []
            for batch in tqdm(self.load_batches(), initial=start, total=steps, mininterval=5,
                              disable=not self.accelerator.is_main_process):
                terms = self.advance(batch)
                losses.append(terms)
                if self.step % self.settings.every.log == 0:
                    self.log(average_terms(losses))
                    losses.clear()
                if report:
                    report(self.step, terms["loss"].item())
                self.inspect()
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

    def load_batches(self) -> DataLoader:
        """The batches of the steps that are left."""
        steps = Steps(self.target, self.accelerator.process_index, self.accelerator.num_processes)
        return DataLoader(steps, batch_size=None, sampler=range(self.step, self.settings.steps),
                          num_workers=self.settings.workers, generator=torch.Generator(),
                          pin_memory=self.accelerator.device.type == "cuda")

    def advance(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One step of the optimizers; returns its loss and, where the module names them, the terms of the loss."""
        accelerator = self.accelerator
        settings = self.settings
        self.set_rates(scale_rate(self.step, settings.steps, settings.schedule))
        step_rng = make_step_rng(settings.seed, self.step, accelerator.process_index, NOISE)
        rng = make_torch_rng(step_rng, accelerator.device)
        with choose_attention(accelerator.device):
            result = self.module(**send_to_device(batch, accelerator.device, non_blocking=True), rng=rng)
        terms = result if isinstance(result, dict) else {"loss": result}
        loss = sum(terms.values())
        accelerator.backward(loss)
        if settings.optimiser.clip:
            accelerator.clip_grad_norm_(self.trained, settings.optimiser.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update(self.step)
        self.step += 1
        return {name: x.detach() for name, x in {**terms, "loss": loss}.items()}

    def set_rates(self, scale: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.base_rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * scale

    def inspect(self) -> None:
        """Writes what is due after this step: checkpoint, sheet, measurements."""
        every = self.settings.every
        if self.step % every.checkpoint == 0:
            self.save_checkpoint()
        if self.accelerator.is_main_process and self.step < self.settings.steps:
            self.show(self.step % every.sheet == 0, self.step % every.metrics == 0)

    def show(self, sheet: bool, metrics: bool) -> None:
        """Writes a sample sheet and measurements of the averaged weights."""
        with self.average.apply(), torch.no_grad():
            image = self.target.draw_sheet() if sheet else None
            measured = self.target.measure() if metrics else {}
        if image is not None:
            folder = self.settings.output / "sheets"
            folder.mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / f"{self.step:06d}.png")
            for tracker in self.accelerator.trackers:
                tracker.log_images({"sheet": image[None]}, self.step, dataformats="NHWC")
        if measured:
            self.log(measured)

    def log(self, values: dict[str, float]) -> None:
        """Writes values to tensorboard, and as a line to log.jsonl."""
        self.accelerator.log(values, self.step)
        if self.accelerator.is_main_process:
            add_line(self.settings.output / LOG, {"step": self.step} | values)

    def finish(self) -> None:
        """Writes the finished file, the last sheet and the last measurements."""
        with self.average.apply():
            weights = self.accelerator.get_state_dict(self.module)
            if self.accelerator.is_main_process:
                self.target.save(self.settings.weights, {name: w.detach().cpu() for name, w in weights.items()})
        if self.accelerator.is_main_process:
            self.show(sheet=True, metrics=True)
            logging.info("wrote %s", self.settings.weights)

    def drop_frozen(self, modules: list, weights: list[dict[str, Tensor]], folder: str) -> None:
        """Takes frozen weights out of the checkpoint."""
        for state in weights:
            for name in self.frozen:
                state.pop(name, None)

    def save_checkpoint(self) -> None:
        """Writes a folder, which gets its name when it is whole, and removes all but the last folders."""
        folder = self.settings.output / "checkpoints" / f"step-{self.step:06d}"
        part = folder.with_suffix(".part")
        if self.step == self.saved:
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(part)
        if self.accelerator.is_main_process:
            self.average.save(part / AVERAGE)
            state = {"step": self.step, "recipe": self.settings.describe_recipe(), "files": digest_folder(part)}
            (part / STATE).write_text(json.dumps(state, indent=1))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            part.rename(folder)
            for old in self.checkpoints[:-CHECKPOINTS]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        self.saved = self.step

    def find_checkpoint(self) -> dict | None:
        """The state of the last whole checkpoint; None without one. Those after it are damaged and are removed."""
        found = None
        damaged = []
        for folder in reversed(self.checkpoints):
            try:
                found = read_state(folder)
                break
            except (ValueError, FileNotFoundError) as error:
                logging.warning("%s; the run goes on from the checkpoint before it", error)
                damaged.append(folder)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            for folder in damaged:
                shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        return found

    def load_checkpoint(self, folder: Path, state: dict) -> None:
        """Raises ValueError where the checkpoint belongs to a run of another recipe."""
        recipe = self.settings.describe_recipe()
        known = state["recipe"]
        if changed := [key for key in recipe if recipe[key] != known.get(key) and (key in known or CONTENT not in key)]:
            raise ValueError(f"output: {self.settings.output} holds a run with other values of {', '.join(changed)}: "
                             "use another folder, or the old values to resume that run")
        self.accelerator.load_state(folder, strict=False)  # without the frozen weights
        self.average.load(folder / AVERAGE)
        self.step = state["step"]
        self.saved = self.step


def read_state(folder: Path) -> dict:
    """The state of a checkpoint. Raises ValueError or FileNotFoundError where a file of it changed or is missing."""
    state = parse_object(read_text(folder / STATE), str(folder / STATE))
    files = state.setdefault("files", {})  # that older versions do not list
    if not isinstance(state.get("step"), int) or not all(isinstance(x, dict) for x in (state.get("recipe"), files)):
        raise ValueError(f"{folder / STATE} is damaged: it names no step and recipe")
    for name, digest in files.items():
        if compute_file_digest(folder / name) != digest:
            raise ValueError(f"{folder / name} is damaged")
    return state


def add_line(file: Path, values: dict) -> None:
    """Adds a line to a log, whose last line may have been cut off when a process ended."""
    with open(file, "ab+") as log:
        size = log.seek(0, io.SEEK_END)
        log.seek(max(0, size - 1))
        start = b"" if log.read() in (b"", b"\n") else b"\n"
        log.write(start + json.dumps(values).encode() + b"\n")


@contextlib.contextmanager
def enable_training() -> Iterator[None]:
    """Within it, the host takes operations with a gradient."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def choose_attention(device: torch.device) -> contextlib.AbstractContextManager:
    """The kernel to train with: on a CPU the backward pass of the fused kernel is slow."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def read_rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def average_terms(losses: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each term over several steps."""
    means = {}
    for name in losses[0]:
        means[name] = torch.stack([step[name] for step in losses]).mean().item()
    return means
