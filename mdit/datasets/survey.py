"""Looking at every sample before work starts."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T, R = TypeVar("T"), TypeVar("R")
LISTED = 10


def survey(source: Path, items: Sequence[T], check: Callable[[T], R], unit: str = "sample") -> list[R]:
    """`check` of every item, in threads.

    check: raises ValueError that names the file.
    Raises one ValueError with the first ten faults and their number.
    """
    def attempt(item: T) -> tuple[R | None, str]:
        try:
            return check(item), ""
        except ValueError as error:
            return None, str(error)

    with ThreadPoolExecutor(min(32, (os.cpu_count() or 1) + 4)) as pool:
        outcomes = list(tqdm(pool.map(attempt, items), f"checking {source}", len(items), unit=unit, delay=2,
                             disable=None))
    refuse(source, [fault for _, fault in outcomes if fault], len(items), unit)
    return [found for found, _ in outcomes]


def refuse(source: Path, faults: Sequence[str], count: int, unit: str = "sample") -> None:
    """Raises ValueError where there are faults."""
    if not faults:
        return
    shown = [f"  {fault.replace(f'{source}{os.sep}', '')}" for fault in faults[:LISTED]]
    if len(faults) > LISTED:
        shown.append(f"  ... and {len(faults) - LISTED} more")
    raise ValueError("\n".join([f"{source}: {len(faults)} of {count} {unit}s cannot be used:", *shown,
                                "Mend these files, or take all files of these samples away, and start again."]))
