"""Compiled kernels: kept on disk, whatever the pack is called and wherever it lies."""
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from mditface.mdit.render import raster  # noqa: E402

KERNEL = """
from mdit.render.raster import compile_kernel

@compile_kernel
def double(x):
    return 2 * x
"""


def run(folder, root, name) -> str:
    """What a kernel of the package `name` gives, and how often it was read from disk."""
    code = f"from {name}.kernel import double; print(double(3), sum(double.stats.cache_hits.values()))"
    paths = os.pathsep.join(map(str, (folder, root)))
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": ""}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True,
                          text=True).stdout.strip()


def test_a_copy_of_another_name_does_not_read_the_firsts_cache(tmp_path, root):
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "kernel.py").write_text(KERNEL)
    assert run(tmp_path, root, "first") == "6 0"
    assert run(tmp_path, root, "first") == "6 1"
    shutil.copytree(tmp_path / "first", tmp_path / "second")  # with what was cached
    shutil.rmtree(tmp_path / "first")
    assert run(tmp_path, root, "second") == "6 0"
    assert run(tmp_path, root, "second") == "6 1"


def test_where_nothing_can_be_written_it_is_compiled_each_time(monkeypatch):
    monkeypatch.setattr(raster.NamedFiles, "_locator_classes", [])
    assert raster.compile_kernel(lambda x: 2 * x)(3) == 6


def test_a_triangle_hides_another_and_its_corners_are_weighted():
    screen = np.array([[0, 0, 1], [8, 0, 1], [0, 8, 1], [0, 0, 2], [4, 0, 2], [0, 4, 2]], float)
    near, owner, weights = raster.rasterize(screen, np.array([[0, 1, 2], [3, 4, 5]]), 6, 9)
    columns, rows = np.meshgrid(np.arange(9) + 0.5, np.arange(6) + 0.5)
    assert (owner == np.where(columns + rows <= 4, 1, np.where(columns + rows <= 8, 0, -1))).all()
    np.testing.assert_allclose(near, np.where(columns + rows <= 4, 2, np.where(columns + rows <= 8, 1, -1e9)))
    np.testing.assert_allclose(weights[0, 5], [1 - (5.5 + 0.5) / 8, 5.5 / 8], rtol=1e-6)
    np.testing.assert_allclose(weights[2, 1], [1 - (1.5 + 2.5) / 4, 1.5 / 4], rtol=1e-6)


def test_values_are_interpolated_between_corners():
    values = np.array([[0, 10], [1, 20], [2, 40]], np.float32)
    found = raster.interpolate(values, np.array([[0, 1, 2]]), np.array([0, 0]), np.array([[0.5, 0.25], [0, 1]]))
    np.testing.assert_allclose(found, [[0.75, 20], [1, 20]])
