"""Shards unpacked to arrays on disk."""
import os

import numpy as np
import pytest
import torch

from mditface.mdit.labelmap import resize_nearest
from mditface.mdit.datasets.mapped import DIGEST, FOLDER, MappedRenders


def write_shard(folder, number, count, side=8):
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    label = rng.integers(0, 19, (count, side, side), dtype=np.uint8)
    np.savez(folder / f"{number:05d}.npz", image=image, label=label)
    return image, label


def test_samples_are_those_of_the_shards(tmp_path):
    images, labels = (np.concatenate(parts) for parts in zip(*(write_shard(tmp_path, k, 2 + k) for k in range(3))))
    faces = MappedRenders(tmp_path)
    assert len(faces) == 9 and np.array_equal(faces.images, images) and np.array_equal(faces.labels, labels)
    image, label = faces.crop(4, 2, 3, 4)
    assert torch.equal(image, torch.from_numpy(images[4, 2:6, 3:7]).permute(2, 0, 1))
    assert torch.equal(label, torch.from_numpy(labels[4, 2:6, 3:7]))


def test_whole_samples_are_reduced(tmp_path):
    images, labels = write_shard(tmp_path, 0, 3)
    faces = MappedRenders(tmp_path)
    index = torch.tensor([2, 0])
    whole = faces.get_batch(index, 8)
    assert np.array_equal(whole[0].permute(0, 2, 3, 1), images[[2, 0]]) and np.array_equal(whole[1], labels[[2, 0]])
    assert torch.equal(faces.get_batch(index, 16)[0], whole[0])
    reduced = faces.get_batch(index, 4)
    means = images[[2, 0]].reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
    assert np.abs(reduced[0].permute(0, 2, 3, 1).numpy() - means).max() <= 0.5
    assert torch.equal(reduced[1], resize_nearest(torch.from_numpy(labels[[2, 0]]), 4, 4))
    with pytest.raises(ValueError, match="3 does not divide"):
        faces.get_batch(index, 3)


def test_arrays_are_made_once_and_again_after_a_change(tmp_path):
    write_shard(tmp_path, 0, 2)
    MappedRenders(tmp_path)
    file = tmp_path / FOLDER / "image.npy"
    os.utime(file, (1, 1))
    MappedRenders(tmp_path)
    assert file.stat().st_mtime == 1
    write_shard(tmp_path, 1, 3)
    assert len(MappedRenders(tmp_path)) == 5


def test_an_interrupted_run_is_begun_again(tmp_path):
    images, _ = write_shard(tmp_path, 0, 2)
    MappedRenders(tmp_path)
    (tmp_path / FOLDER / DIGEST).unlink()
    (tmp_path / FOLDER / "image.npy").write_bytes(b"half")
    assert np.array_equal(MappedRenders(tmp_path).images, images)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="dev.py render"):
        MappedRenders(tmp_path)
    write_shard(tmp_path, 0, 2)
    write_shard(tmp_path, 1, 2, side=16)
    with pytest.raises(ValueError, match="00001.npz"):
        MappedRenders(tmp_path)
