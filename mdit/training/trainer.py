"""The training loop: steps, log, sheets, measurements, checkpoints; the same on one core and on many machines."""
from __future__ import annotations

import contextlib
import hashlib
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
from filelock import FileLock, Timeout
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import comfy.model_management

from ..shared.digests import add_value, compute_file_digest, digest_folder
from ..shared.text_files import parse_object, read_text
from .average import Average
from .data import make_step_rng, make_torch_rng
from .pace import Pace
from .settings import CONTENT, Schedule, Settings, add_defaults
from .targets.base import Target

CHECKPOINTS = 2  # that a run leaves: the last one, and one to fall back on
STATE = "state.json"
LOG = "log.jsonl"
LOCK = "run.lock"
AVERAGE = "average.safetensors"
COPIES = 4 * (CHECKPOINTS + 1) + 1  # of the trained weights: those, their average and two moments; and the file
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
NOISE = 1  # tells the random numbers of the loss from those of the step's batch


def scale_rate(step: int, steps: int, schedule: Schedule) -> float:
    """Factor of the learning rates at a step of a run: a ramp, a plateau, and a fall to zero."""
    left = min(1.0, (1 - step / steps) / schedule.decay)
    fall = left if schedule.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
    return min((step + 1) / schedule.warmup, fall)


def make_accelerator(settings: Settings) -> Accelerator:
    """Device and precision of a run; the launcher decides the number of processes."""
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # after the blocks text and mask are not read
    cpu = comfy.model_management.cpu_mode()  # without it, accelerate finds no other process on a CPU
    return Accelerator(cpu=cpu, mixed_precision=settings.precision, log_with="tensorboard",
                       project_dir=settings.output, kwargs_handlers=[unused])


class Steps(Dataset):
    """The batches of one process, by step. parts: of a step, all processes'."""

    def __init__(self, target: Target, process: int, processes: int, parts: int):
        self.target = target
        self.numbers = range(process, parts, processes)
        self.parts = parts

    def __getitem__(self, step: int) -> list[dict[str, Tensor]]:
        return [self.target.make_batch(step, number, self.parts) for number in self.numbers]


class Trainer:
    """One run of a target. A second run with the same settings resumes from the last checkpoint of the first."""

    def __init__(self, target: Target, accelerator: Accelerator):
        self.target = target
        self.settings = target.settings
        self.accelerator = accelerator
        self.step = 0
        self.saved = 0  # step of the last whole checkpoint
        self.average = None
        if accelerator.distributed_type in SHARDED:
            raise ValueError(f"accelerate: {accelerator.distributed_type.value} is not supported, each process needs "
                             "all weights: answer no to FSDP, DeepSpeed and Megatron in accelerate config")

    @property
    def parts(self) -> int:
        """Number of batches in a step, of all processes: one process that adds up N trains as N processes do."""
        return self.settings.accumulate * self.accelerator.num_processes

    @property
    def checkpoints(self) -> list[Path]:
        """Finished checkpoints, the last one last."""
        found = (self.settings.output / "checkpoints").glob("step-*")
        return sorted((path for path in found if path.suffix != ".part"), key=lambda path: int(path.name[5:]))

    def prepare(self) -> None:
        """Prepares the first step, or the step after the last checkpoint."""
        state = self.find_checkpoint()
        if not state:
            self.check_weights()
            self.target.start()
        self.recipe = self.describe_run()
        if state:
            self.check_state(state)
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
        if accelerator.is_main_process:
            self.announce()
            cut_log(self.settings.output / LOG, self.step)
        accelerator.init_trackers("log", init_kwargs={"tensorboard": {"purge_step": self.step}})

    def describe_run(self) -> dict:
        """What a run that resumes shares with the one before it: the recipe and the data.

        The data are known by their first batch, a function of data and seed. Its floats may depend on the device.
        """
        first = self.target.make_batch(0, 0, self.parts)
        exact = {name: list(x.shape) if x.is_floating_point() else x for name, x in first.items()}
        digest = hashlib.blake2b(digest_size=16)
        add_value(digest, exact)
        return self.settings.describe_recipe() | {CONTENT + "data": digest.hexdigest()}

    def check_weights(self) -> None:
        """Raises ValueError where a new run would overwrite the file of another."""
        file = self.settings.weights
        if file.exists() and not (self.settings.output / LOG).exists():
            raise ValueError(f"weights: {file} exists, and no run in {self.settings.output} made it: name another "
                             "file, or move that one")

    def announce(self) -> None:
        """Tells on what the run trains."""
        processes = self.accelerator.num_processes
        batch = self.settings.batch
        batches = self.target.batches
        logging.info("processes: %d, device: %s, samples a step: %d x %d = %d, an epoch: %d samples in %d steps, done: "
                     "%d of %d steps", processes, self.accelerator.device.type, self.parts, batch, self.parts * batch,
                     len(batches.keys), len(batches.get_order(self.parts)), self.step, self.settings.steps)

    @contextlib.contextmanager
    def lock_folder(self) -> Iterator[None]:
        """Within it, no other run works in the folder. Raises ValueError where one does."""
        output = self.settings.output
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / LOCK)
        try:
            if self.accelerator.is_main_process:
                lock.acquire(timeout=0)
            yield
        except Timeout:
            raise ValueError(f"output: another run works in {output}: wait for its end, or use another folder"
                             ) from None
        finally:
            lock.release()

    def fit(self, report: Callable[[int, float], None] | None = None) -> None:
        """Runs to the end, then writes the finished file. After `stop` it ends early, with a checkpoint.

        `report(step, loss)` is called after each step of the main process.
        """
        with enable_training(), self.lock_folder():
            self.prepare()
            start = self.step
            steps = self.settings.steps
            losses = []
            bar = tqdm(self.load_batches(), initial=start, total=steps, mininterval=5,
                       disable=not self.accelerator.is_main_process)
            pace = Pace(self.settings.batch * self.parts, steps, start, self.accelerator.device)
            for batches in bar:
                terms = self.advance(batches)
                losses.append(terms)
                if report:
                    report(self.step, terms["loss"].item())
                if self.step % self.settings.every.log == 0:
                    means = self.log_losses(losses, pace.read(self.step))
                    bar.set_postfix(loss=means["loss"], refresh=False)
                    losses.clear()
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
        steps = Steps(self.target, self.accelerator.process_index, self.accelerator.num_processes, self.parts)
        return DataLoader(steps, batch_size=None, sampler=range(self.step, self.settings.steps),
                          num_workers=self.settings.workers, generator=torch.Generator(),
                          pin_memory=self.accelerator.device.type == "cuda")

    def advance(self, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step of the optimizers; returns its loss, the norm of its gradient before it is clipped, and, where the
        module names them, the terms of the loss."""
        settings = self.settings
        self.set_rates(scale_rate(self.step, settings.steps, settings.schedule))
        terms = average_terms([self.add_gradient(batch, part) for part, batch in enumerate(batches)])
        if settings.optimiser.clip:
            terms["gradient_norm"] = self.accelerator.clip_grad_norm_(self.trained, settings.optimiser.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update(self.step)
        self.step += 1
        return {name: x.detach() for name, x in terms.items()}

    def add_gradient(self, batch: dict[str, Tensor], part: int) -> dict[str, Tensor]:
        """Adds the gradient of one of a process's batches of the step; returns the loss and its terms."""
        accelerator = self.accelerator
        settings = self.settings
        number = accelerator.process_index + part * accelerator.num_processes
        rng = make_torch_rng(make_step_rng(settings.seed, self.step, number, NOISE), accelerator.device)
        last = part == settings.accumulate - 1
        alone = contextlib.nullcontext() if last else accelerator.no_sync(self.module)  # processes sum up once a step
        with alone, choose_attention(accelerator.device):  # also where a backward pass computes a block again
            result = self.module(**send_to_device(batch, accelerator.device, non_blocking=True), rng=rng)
            terms = result if isinstance(result, dict) else {"loss": result}
            loss = sum(terms.values())
            accelerator.backward(loss / settings.accumulate)
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

    def log_losses(self, losses: list[dict[str, Tensor]], pace: dict[str, float]) -> dict[str, float]:
        """Writes the means over several steps and all processes, learning rate and pace; returns the means.

        Raises ValueError where the loss is not finite.
        """
        means = self.accelerator.reduce(average_terms(losses), "mean")
        means = {name: mean.item() for name, mean in means.items()}
        rate = max(rate for optimizer in self.optimizers for rate in read_rates(optimizer))
        self.log(means | {"learning_rate": rate} | pace)
        if not math.isfinite(means["loss"]):
            raise ValueError(f"optimiser: the loss is not finite at step {self.step}: lower the learning rate, or set "
                             "precision to fp32, in another folder")
        return means

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
                file = self.settings.weights
                self.target.save(file, {name: w.detach().cpu() for name, w in weights.items()})
                shutil.copymode(self.checkpoints[-1] / STATE, file)  # safetensors writes for the owner alone
        if self.accelerator.is_main_process:
            self.show(sheet=True, metrics=True)
            logging.info("wrote %s", self.settings.weights)

    def drop_frozen(self, modules: list, weights: list[dict[str, Tensor]], folder: str) -> None:
        """Takes frozen weights out of the checkpoint."""
        for state in weights:
            for name in self.frozen:
                state.pop(name, None)
                state.pop(f"module.{name}", None)  # of several processes

    def save_checkpoint(self) -> None:
        """Writes a folder, which gets its name when it is whole, and removes all but the last folders."""
        folder = self.settings.output / "checkpoints" / f"step-{self.step:06d}"
        part = folder.with_suffix(".part")
        if self.step == self.saved:
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.write_state(part)
        self.accelerator.wait_for_everyone()  # the digests are those of all processes' files
        if self.accelerator.is_main_process:
            self.average.save(part / AVERAGE)
            state = {"step": self.step, "processes": self.accelerator.num_processes, "recipe": self.recipe,
                     "files": digest_folder(part)}
            (part / STATE).write_text(json.dumps(state, indent=1))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            part.rename(folder)
            for old in self.checkpoints[:-CHECKPOINTS]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()
        self.saved = self.step

    def write_state(self, folder: Path) -> None:
        try:
            self.accelerator.save_state(folder)
        except RuntimeError as error:  # so PyTorch tells a full disk
            if "writ" not in str(error):
                raise
            raise OSError(f"{folder}: {error}") from error

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

    def check_state(self, state: dict) -> None:
        """Raises ValueError where a checkpoint belongs to a run of another recipe, other data or other processes."""
        recipe = self.recipe
        known = add_defaults(state["recipe"], type(self.settings))
        processes = self.accelerator.num_processes
        if state.get("processes", processes) != processes:
            raise ValueError(f"output: {self.settings.output} holds a run of {state['processes']} process(es), not "
                             f"{processes}: launch as many as before, or use another folder")
        if changed := [key for key in recipe if recipe[key] != known.get(key) and (key in known or CONTENT not in key)]:
            raise ValueError(f"output: {self.settings.output} holds a run with other values of {', '.join(changed)}: "
                             "use another folder, or the old values to resume that run")

    def load_checkpoint(self, folder: Path, state: dict) -> None:
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


def check_space(folder: Path, module: torch.nn.Module, name: str) -> None:
    """Raises ValueError unless the disk holds checkpoints and finished file, so that no run fails at its end.

    folder: of the checkpoints. name: of the input or key that errors name.
    """
    needed = COPIES * sum(w.nbytes for w in module.parameters() if w.requires_grad)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name}: the checkpoints cannot be written to {folder} ({error.strerror}): allow writing to "
                         "this folder") from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{name}: the checkpoints need {needed / 2 ** 20:.0f} MB in {folder}, but "
                         f"{free / 2 ** 20:.0f} MB are free: make room on the disk")


def read_log(file: Path) -> list[dict]:
    """The lines of a log. Damaged ones, as of a process that was killed, are left out."""
    lines = []
    for text in file.read_bytes().decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            values = parse_object(text, LOG)
            lines.append(values | {"step": int(values["step"])})
    return lines


def cut_log(file: Path, step: int) -> None:
    """Takes out the lines after a step: a run that goes on from there writes them again."""
    if file.exists():
        kept = [json.dumps(line) + "\n" for line in read_log(file) if line["step"] <= step]
        part = file.with_suffix(".part")
        part.write_text("".join(kept))
        part.replace(file)


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


def average_terms(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each term over several steps."""
    means = {}
    for name in losses[0]:
        means[name] = torch.stack([step[name] for step in losses]).mean()
    return means
