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
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bz = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cz = screen[c, 0], screen[c, 1], screen[c, 2]
        left = max(0, int(np.ceil(min(ax, bx, cx) - 0.5)))
        right = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5)))
        top = max(0, int(np.ceil(min(ay, by, cy) - 0.5)))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5)))
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if left > right or top > bottom or abs(area) < 1e-9:
            continue
        scale = 1 / area
        step_a, step_b = (by - cy) * scale, (cy - ay) * scale
        x = left + 0.5
        for row in range(top, bottom + 1):
            y = row + 0.5
            wa = ((bx - x) * (cy - y) - (cx - x) * (by - y)) * scale - step_a
            wb = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) * scale - step_b
            for column in range(left, right + 1):
                wa += step_a
                wb += step_b
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


@compile_kernel
def vote(label, weights, k):
    """The class of the largest weight in each block of ``k`` x ``k`` pixels; of equals the first."""
    out = np.empty((label.shape[0] // k, label.shape[1] // k), np.uint8)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            votes = np.zeros(len(weights))
            for i in range(k):
                for j in range(k):
                    name = label[row * k + i, column * k + j]
                    votes[name] += weights[name]
            out[row, column] = np.argmax(votes)
    return out
