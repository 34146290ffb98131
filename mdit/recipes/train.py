"""Train a model: ``python dev.py train CONFIG.yaml [KEY=VALUE ...]``.

The same command resumes an interrupted run, also after Ctrl-C. For several devices: ``python dev.py run -- accelerate
launch -m mdit.recipes.train CONFIG.yaml``.
"""
from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path

from safetensors import SafetensorError

from ..training.host import prepare_host

prepare_host()

from ..training.optimizers import import_optimizer
from ..training.settings import Settings, read_settings
from .targets.kinds import SETTINGS, TARGETS
from ..training.trainer import Trainer, check_space, make_accelerator

STOPPED = 128 + signal.SIGINT  # exit code of a run that ended early


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python dev.py train", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("changes", nargs="*", default=[], metavar="KEY=VALUE",
                        help="other values of keys, such as steps=100")
    args = parser.parse_args(arguments)
    try:
        trainer = train(read_settings(args.config, args.changes, SETTINGS))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    except (OSError, SafetensorError) as error:
        parser.exit(2, f"output: a file of the run cannot be read or written ({error}): make room on the disk; the "
                       "same command then resumes the run\n")
    if trainer.step < trainer.settings.steps:
        parser.exit(STOPPED, f"stopped after step {trainer.step} of {trainer.settings.steps}; the same command resumes "
                             "the run\n")


def train(settings: Settings) -> Trainer:
    """The trainer after a run, which signals end early."""
    import_optimizer(getattr(settings.optimiser, "kind", "adamw"))
    accelerator = make_accelerator(settings)  # chooses the process's device, which the target asks the host for
    check_launch(accelerator.num_processes)
    trainer = Trainer(TARGETS[settings.target](settings), accelerator)
    check_space(settings.output, trainer.target.module, "output")
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, trainer.stop)
    trainer.fit()
    return trainer


def check_launch(processes: int) -> None:
    """Raises ValueError where `accelerate launch` was asked for several processes on the CPU: it starts only one."""
    asked = {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()
    if asked and "LOCAL_RANK" not in os.environ and processes == 1:
        raise ValueError("num_processes: accelerate launch --cpu starts one process: use torchrun --nproc_per_node N "
                         "-m mdit.recipes.train CONFIG.yaml")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    main()
