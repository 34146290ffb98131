"""Train a model: ``python dev.py train CONFIG.yaml [KEY=VALUE ...]``.

The same command resumes an interrupted run, also after Ctrl-C. For several devices: ``python dev.py run -- accelerate
launch -m mdit.recipes.train CONFIG.yaml``.
"""
from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path

from ..training.host import prepare_host

prepare_host()

from ..training.settings import read_settings
from .targets.kinds import SETTINGS, TARGETS
from ..training.trainer import Trainer, make_accelerator


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python dev.py train", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("changes", nargs="*", default=[], metavar="KEY=VALUE",
                        help="other values of keys, such as steps=100")
    args = parser.parse_args(arguments)
    try:
        settings = read_settings(args.config, args.changes, SETTINGS)
        trainer = Trainer(TARGETS[settings.target](settings), make_accelerator(settings))
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, trainer.stop)
    trainer.fit()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    main()
