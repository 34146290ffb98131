"""FLOPs by formulas (docs/design/mditface.md, section 7.2): two a multiply-add; embeddings and modulation are left out.

d width; N, L and M image, text and mask tokens. All are those of one row, or of one pass over one mask.
linear: FLOPs of a block's linear layers on a token, in d^2.
"""
from __future__ import annotations

LINEAR = 24

def count_base_flops(d: int, N: int, L: int, linear: int = LINEAR) -> int:
    """The text and image streams of one block."""
    return linear * d * d * (N + L) + 4 * d * (N + L) ** 2


def count_naive_extra(d: int, N: int, L: int, M: int, last: bool = False, linear: int = LINEAR) -> int:
    """The mask stream in the joint form; nobody reads the last block's mask tokens, so only their k and v are made."""
    saved = (linear - 4) * d * d * M + 4 * d * M * (L + N + M) if last else 0
    return linear * d * d * M + 4 * d * (2 * M * (L + N) + M * M) - saved


def count_dynamic_extra(d: int, N: int, L: int, M: int) -> int:
    """Text and image queries that read M more keys."""
    return 4 * d * (L + N) * M


def count_static_flops(d: int, M: int, last: bool = False, linear: int = LINEAR) -> int:
    return 4 * d * d * M if last else linear * d * d * M + 4 * d * M * M


def count_second_attention(d: int, N: int) -> int:
    """SD3.5-medium's attention of one stream to itself."""
    return 8 * d * d * N + 4 * d * N * N


def run_costs(d: int, depth: int, N: int, L: int, M: int, rows: int, second: int = 0, text_ends: bool = False,
              linear: int = LINEAR, refiners: int = 0) -> dict[str, int]:
    """A step of `rows` rows of a whole model, and its static pass.

    `second` blocks have a second attention; with `text_ends` the last block makes text keys and values only.
    `refiners` blocks before the others work on the image alone, and as many on the text alone. The mask passes the
    image's, in the naive form once a step.
    """
    base = depth * count_base_flops(d, N, L, linear) + second * count_second_attention(d, N)
    base -= text_ends * 18 * d * d * L
    naive = ((depth - 1) * count_naive_extra(d, N, L, M, linear=linear)
             + count_naive_extra(d, N, L, M, last=True, linear=linear))
    static = (depth - 1) * count_static_flops(d, M, linear=linear) + count_static_flops(d, M, last=True)
    base += refiners * (count_base_flops(d, N, 0, linear) + count_base_flops(d, L, 0, linear))
    alone = second * count_second_attention(d, M)
    refined = refiners * count_static_flops(d, M, linear=linear)
    return {"base": rows * base, "naive": rows * (base + naive + alone) + refined,
            "cached": rows * (base + depth * count_dynamic_extra(d, N, L, M)), "static": static + alone + refined}
