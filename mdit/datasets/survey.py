"""Checks of every sample before work starts."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")
LISTED = 10


def survey(source: Path, items: Sequence[T], check: Callable[[T], R], unit: str = "sample") -> list[R]:
    """The results of `check` for every item, computed in threads.

    check: raises ValueError, naming the file, for a fault.
    Raises one ValueError with the first ten faults and the number of all.
    """
    def attempt(item: T) -> tuple[R | None, str]:
        try:
            return check(item), ""
        except ValueError as error:
            return None, str(error)

    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4)) as pool:
        outcomes = list(tqdm(pool.map(attempt, items), f"checking {source}", len(items), unit=unit, delay=2,
                             disable=None))
    raise_faults(source, [fault for _, fault in outcomes if fault], len(items), unit)
    return [found for found, _ in outcomes]


def raise_faults(source: Path, faults: Sequence[str], count: int, unit: str = "sample") -> None:
    """Raises ValueError if there are faults in the `count` items."""
    if not faults:
        return
    shown = [f"  {fault.replace(f'{source}{os.sep}', '')}" for fault in faults[:LISTED]]
    if len(faults) > LISTED:
        shown.append(f"  ... and {len(faults) - LISTED} more")
    raise ValueError("\n".join([f"{source}: {len(faults)} of {count} {unit}s cannot be used:", *shown,
                                "Repair these files or remove all files of these samples, then start again."]))
