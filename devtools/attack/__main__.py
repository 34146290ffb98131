"""The command: `python dev.py attack files --seconds N [--reader NAME ...] [--mutant NUMBER]`."""
from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from devtools.host import load_pack


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("attack", description="Attack the pack; the last line is one JSON object.")
    commands = parser.add_subparsers(dest="command", required=True)
    files = commands.add_parser("files", help="feed every reader mutants of its files and values")
    files.add_argument("--seconds", type=float, default=60.0, help="how long to attack (default: 60)")
    files.add_argument("--reader", nargs="*", help="only these readers")
    files.add_argument("--mutant", type=int, help="only the mutant of this number, as an escape names it")
    files.add_argument("--start", type=int, default=0, help="number of the first mutant (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """0 if nothing escaped."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as base:
        load_pack(Path(base))
        logging.disable(logging.WARNING)
        from .files import READERS, attack_files
        once = {} if options.mutant is None else {"start": options.mutant, "most": 1}
        found = attack_files(options.seconds, options.reader or tuple(READERS), **({"start": options.start} | once))
    for name, count in found["tried"].items():
        print(f"{name}: {count} mutants")
    print(json.dumps({"tried": sum(found["tried"].values()), "escapes": found["escapes"]}))
    return 1 if found["escapes"] else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
