"""Smooth random fields over template coordinates (numba). The same field at every size and on every head."""

from __future__ import annotations

import numpy as np

from .raster import compile_kernel


@compile_kernel
def hash_corner(x, y, z, seed):
    """A number in [-1, 1) for a corner of the lattice."""
    h = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791) ^ (seed * 40503)
    h = ((h ^ ((h & 0xFFFFFFFF) >> 15)) * 73244475) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 73244475) & 0xFFFFFFFF
    return np.float32((h ^ (h >> 16)) / 2147483648.0 - 1.0)


@compile_kernel
def sample_noise(points, frequency, seed):
    """Value noise in [-1, 1] and its gradient in lattice units at ``points`` (N, 3) -> float32 (N, 4).

    ``frequency`` (3,) is the number of lattice cells in a unit along each axis.
    """
    out = np.empty((len(points), 4), np.float32)
    for i in range(len(points)):
        x = points[i, 0] * frequency[0]
        y = points[i, 1] * frequency[1]
        z = points[i, 2] * frequency[2]
        ix, iy, iz = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        x, y, z = x - ix, y - iy, z - iz
        u = x * x * x * (x * (x * 6 - 15) + 10)
        v = y * y * y * (y * (y * 6 - 15) + 10)
        w = z * z * z * (z * (z * 6 - 15) + 10)
        a = hash_corner(ix, iy, iz, seed)
        b = hash_corner(ix + 1, iy, iz, seed)
        c = hash_corner(ix, iy + 1, iz, seed)
        d = hash_corner(ix + 1, iy + 1, iz, seed)
        e = hash_corner(ix, iy, iz + 1, seed)
        f = hash_corner(ix + 1, iy, iz + 1, seed)
        g = hash_corner(ix, iy + 1, iz + 1, seed)
        h = hash_corner(ix + 1, iy + 1, iz + 1, seed)
        near = a + (b - a) * u + (c - a) * v + (a - b - c + d) * u * v
        far = e + (f - e) * u + (g - e) * v + (e - f - g + h) * u * v
        out[i, 0] = near + (far - near) * w
        along_x = (b - a + (a - b - c + d) * v) * (1 - w) + (f - e + (e - f - g + h) * v) * w
        along_y = (c - a + (a - b - c + d) * u) * (1 - w) + (g - e + (e - f - g + h) * u) * w
        out[i, 1] = along_x * 30 * x * x * (x * (x - 2) + 1)
        out[i, 2] = along_y * 30 * y * y * (y * (y - 2) + 1)
        out[i, 3] = (far - near) * 30 * z * z * (z * (z - 2) + 1)
    return out


class Fields:
    """Noise over template coordinates; one seed a sample."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __call__(self, points: np.ndarray, frequency: float | tuple[float, float, float], number: int) -> np.ndarray:
        """Value and gradient (N, 4) of the field ``number``; ``frequency`` in cells a unit, also for each axis."""
        each = np.broadcast_to(np.asarray(frequency, np.float32), 3)
        return sample_noise(points, np.ascontiguousarray(each), self._seed + number)


def sample_groove(distance: np.ndarray, width: float) -> np.ndarray:
    """Depth in [0, 1] of a groove at ``distance`` (N,) from its middle."""
    return np.exp(-(distance / width) ** 2)
