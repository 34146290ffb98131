"""What a run of the tests costs, by part, in processor seconds: other work on the machine changes them little."""
from __future__ import annotations

import contextlib
from collections import Counter

import psutil


def measure_processor() -> float:
    """Processor seconds of this process and of all that it started, also of most that have ended.

    What a killed process had started is lost.
    """
    process = psutil.Process()
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # it has ended since it was listed
            seconds += sum(one.cpu_times()[:4])  # of its own and of its children that have ended
    return seconds


class Costs(Counter):
    """Processor seconds by the name of a part."""
    seen = 0.0  # seconds that are booked, or lost since they were

    def book(self, part: str) -> None:
        """Add to a part what this process and its children have used since the last call."""
        now = measure_processor()
        self[part] += max(0.0, now - self.seen)
        self.seen = now

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.0f}" for part, seconds in self.most_common())
        return f"processor seconds: {self.total():.0f} ({parts})"
