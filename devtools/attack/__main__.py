"""The commands `python dev.py attack NAME`: `cache`, `files`, `server`, `training` and `values`."""
from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

from devtools.host import ROOT, load_pack


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("attack", description="Attack the pack; the last line is one JSON object.")
    commands = parser.add_subparsers(dest="command", required=True)
    files = commands.add_parser("files", help="feed every reader mutants of its files and values")
    files.add_argument("--seconds", type=float, default=60.0, help="how long to attack (default: 60)")
    files.add_argument("--reader", nargs="*", help="only these readers")
    files.add_argument("--mutant", type=int, help="only the mutant of this number, as an escape names it")
    files.add_argument("--start", type=int, default=0, help="number of the first mutant (default: 0)")
    training = commands.add_parser("training", help="break training runs, and compare how they end")
    training.add_argument("--runs", type=int, default=20, help="how many runs to break (default: 20)")
    training.add_argument("--start", type=int, default=0, help="number of the first run (default: 0)")
    values = commands.add_parser("values", help="feed every node input other values, in a real server")
    values.add_argument("--count", type=int, help="how many values to try (default: all)")
    values.add_argument("--seed", type=int, default=0, help="draws them (default: 0)")
    cache = commands.add_parser("cache", help="compare random runs with fresh ones that store nothing")
    cache.add_argument("--seconds", type=float, default=60.0, help="how long to attack (default: 60)")
    cache.add_argument("--seed", type=int, default=0, help="draws the runs (default: 0)")
    cache.add_argument("--subject", nargs="*", help="only these models")
    cache.add_argument("--sequence", help="only this sequence, as a failure prints it")
    server = commands.add_parser("server", help="send mixed graphs of all systems to one server")
    server.add_argument("--graphs", type=int, default=100, help="how many graphs to send (default: 100)")
    server.add_argument("--seed", type=int, default=0, help="draws them (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """0 if nothing escaped, and nothing was lost."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as base:
        load_pack(Path(base))
        logging.disable(logging.WARNING)
        found = RUNS[options.command](options)
    print(json.dumps(found))
    return 1 if any(found.get(name) for name in ("escapes", "lost", "wrong")) else 0


def run_files(options: argparse.Namespace) -> dict:
    from .files import READERS, attack_files
    once = {} if options.mutant is None else {"start": options.mutant, "most": 1}
    found = attack_files(options.seconds, options.reader or tuple(READERS), **({"start": options.start} | once))
    for name, count in found["tried"].items():
        print(f"{name}: {count} mutants")
    return {"tried": sum(found["tried"].values()), "escapes": found["escapes"]}


def run_training(options: argparse.Namespace) -> dict:
    from .training import attack_training
    found = attack_training(options.runs, options.start)
    print_counts(found["mishaps"], " times")
    return found


def run_values(options: argparse.Namespace) -> dict:
    from .inputs import attack_inputs
    with tempfile.TemporaryDirectory() as base:
        found = attack_inputs(options.count, options.seed, Path(base), ROOT / "tests" / "golden")
    print_counts(found["ends"], " values")
    return found


def run_cache(options: argparse.Namespace) -> dict:
    from .cache import SUBJECTS, attack_cache, repeat_sequence
    if options.sequence:
        found = repeat_sequence(options.sequence)
    else:
        found = attack_cache(options.seconds, options.seed, options.subject or tuple(SUBJECTS))
    print_counts(dict(sorted(found.pop("counts").items())))
    return found


def run_server(options: argparse.Namespace) -> dict:
    from .server import attack_server
    found = attack_server(options.graphs, options.seed, ROOT / "tests" / "golden")
    print_counts(found.pop("counts"))
    return found


def print_counts(counts: dict[str, int], unit: str = "") -> None:
    for name, count in counts.items():
        print(f"{name}: {count}{unit}")


RUNS = {"cache": run_cache, "files": run_files, "server": run_server, "training": run_training, "values": run_values}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
