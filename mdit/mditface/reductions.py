"""Ways of reading a mask by fewer keys (docs/design/mditface.md, sections 7.4 and 8)."""
from __future__ import annotations

from typing import NamedTuple


class Reduction(NamedTuple):
    """One way, with the sentence that tooltips show.

    description: what happens, beginning with a small letter, without a full stop.
    half: the label map has half the resolution, which leaves a quarter of the tokens.
    merge: the keys of a flat region become one key.
    """
    description: str
    half: bool = False
    merge: bool = False


REDUCTIONS = {
    "off": Reduction("every token is read, which is exact"),
    "merge": Reduction("the keys of a flat region become one key, close to exact and faster", merge=True),
    "half": Reduction("half the resolution, a quarter of the tokens, for models trained with half", half=True),
    "half, merged": Reduction("half and merge together, for models trained with half", half=True, merge=True),
}
EXACT = REDUCTIONS["off"]


def check_window(reduction: str, radius: int):
    """Raises ValueError for a reduction of tokens that are read in windows: a window lies on the image's grid."""
    if radius and REDUCTIONS[reduction].half:
        raise ValueError(f"token_reduction: '{reduction}' does not fit an adapter that reads the mask in windows "
                         f"(window {radius}), which need a token for each token of the image: choose 'off' or 'merge'")


def describe_reductions() -> str:
    """One sentence for each reduction, as a tooltip."""
    return " ".join(f"{name}: {reduction.description}." for name, reduction in REDUCTIONS.items())
