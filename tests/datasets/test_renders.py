"""The renderer's shards in memory, and errors that name broken ones."""
import numpy as np
import pytest

from mditface.mdit.datasets import Renders


def test_folder_without_shards(tmp_path):
    (tmp_path / "00000.part.npz").touch()
    with pytest.raises(FileNotFoundError, match="dev.py render"):
        Renders(tmp_path)


def test_broken_shards_are_named(tmp_path):
    labels = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "00000.npz", image=np.zeros((2, 4, 4, 3), np.uint8), label=labels, caption=["a", "b"],
             attributes=["{}"] * 2)
    assert len(Renders(tmp_path)) == 2
    (tmp_path / "00001.npz").write_bytes(b"PK cut off")
    np.savez(tmp_path / "00002.npz", image=np.zeros((1, 4, 4, 3), np.uint8), label=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(ValueError) as caught:
        Renders(tmp_path)
    assert "2 of 3 shards" in str(caught.value) and "00001.npz" in str(caught.value)
    assert "00002.npz: it lacks caption, attributes" in str(caught.value)


@pytest.mark.parametrize("attributes", ["{", "[1]", "7"])
def test_attributes_that_are_no_object_are_named(tmp_path, attributes):
    np.savez(tmp_path / "00000.npz", image=np.zeros((1, 4, 4, 3), np.uint8), label=np.zeros((1, 4, 4), np.uint8),
             caption=["a"], attributes=[attributes])
    with pytest.raises(ValueError, match="00000.npz: attributes is damaged"):
        Renders(tmp_path)
