"""How masks travel in conditionings and runs, for every system that reads one (docs/architecture.md)."""
from __future__ import annotations

CONDITIONING_KEY = "mdit_mask"
BATCH_KEY = "mdit_batch_index"  # of the transformer options: the numbers of the run's latents in a larger batch
ON_IMAGE = "on the image"  # the placement of a mask that every reader knows
REPORT_KEY = "mdit_report"  # of the transformer options: the run's RunReport


def is_mask(key: str) -> bool:
    """Whether a key of a conditioning or a wrapper is that of masks: for all readers, or for one of them."""
    return key.split(".")[0] == CONDITIONING_KEY


def choose_maps(count: int, latents: int, batch_index: list[int] | None) -> list[int] | None:
    """Which of `count` maps each latent reads; None where the count does not say.

    batch_index: the numbers that the host gives latents of a larger batch. They count only where they fit the maps.
    """
    if count in (1, latents) and sorted(batch_index or ()) != list(range(count)):
        return list(range(count))
    if batch_index is None or len(batch_index) != latents or not all(0 <= number < count for number in batch_index):
        return None
    return list(batch_index)
