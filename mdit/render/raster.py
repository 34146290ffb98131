"""Z-buffer rasterizer of a triangle soup (numba)."""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache


class NamedFiles(CompileResultCacheImpl):
    """Puts the module's name into the names of the files. Numba imports what it cached by the name that it had then,
    and one checkout has several: that of the command line, that of the host."""

    def __init__(self, function):
        self.module = hashlib.sha256(function.__module__.encode()).hexdigest()[:16]
        super().__init__(function)

    def get_filename_base(self, fullname, abiflags):
        return super().get_filename_base(f"{self.module}.{fullname}", abiflags)


class NamedCache(FunctionCache):
    _impl_class = NamedFiles


def compile_kernel(function):
    """Compiles a function when it first runs and keeps it on disk, if any of numba's folders can be written."""
    compiled = njit(function)
    try:
        compiled._cache = NamedCache(function)
    except RuntimeError:
        pass
    return compiled


@compile_kernel
def rasterize(screen, triangles, height, width):
    """Draw ``screen`` vertices (V, 3: column, row, nearness) as ``triangles`` (T, 3).

    Returns nearness (H, W), -1e9 where empty; triangle number (H, W), -1 where empty; and the
    weights of the first two corners (H, W, 2).
    """
    near = np.full((height, width), np.float32(-1e9))
    owner = np.full((height, width), np.int32(-1))
    weights = np.zeros((height, width, 2), np.float32)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t]
        ax, ay, az = screen[a]
        bx, by, bz = screen[b]
        cx, cy, cz = screen[c]
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-9:
            continue
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        for row in range(top, bottom + 1):
            y = row + 0.5
            for column in range(left, right + 1):
                x = column + 0.5
                wa = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / area
                wb = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / area
                wc = 1.0 - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = wa * az + wb * bz + wc * cz
                if z > near[row, column]:
                    near[row, column] = z
                    owner[row, column] = t
                    weights[row, column, 0] = wa
                    weights[row, column, 1] = wb
    return near, owner, weights


@compile_kernel
def interpolate(values, triangles, owner, weights):
    """Vertex ``values`` (V, C) at N covered pixels: ``owner`` (N,), ``weights`` (N, 2) -> float32 (N, C)."""
    out = np.empty((len(owner), values.shape[1]), np.float32)
    for i in range(len(owner)):
        a, b, c = triangles[owner[i]]
        wa, wb = weights[i]
        for k in range(values.shape[1]):
            out[i, k] = wa * values[a, k] + wb * values[b, k] + (1 - wa - wb) * values[c, k]
    return out
