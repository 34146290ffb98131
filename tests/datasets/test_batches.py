"""Common sizes of images, and the cache of encoded samples."""
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.datasets import CachedDataset, FaceDataset, find_bucket_sizes
from mditface.mdit.shared.digests import compute_file_digest
from mditface.mdit.datasets.faces import Face

SIZES = st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1, max_size=40)


@dataclass
class Stored:
    """A sample of random pixels."""
    name: str
    size: tuple[int, int]

    def load(self):
        rng = torch.Generator().manual_seed(int(self.name))
        pixels = torch.randint(0, 19, (3, *self.size), generator=rng, dtype=torch.uint8)
        return Face(pixels, pixels[0], [f"face {self.name}"])

    def describe_state(self):
        return False


def faces(sizes):
    return FaceDataset([Stored(str(k), size) for k, size in enumerate(sizes)], sizes)


@settings(deadline=None)
@given(SIZES, st.sampled_from([16, 32]), st.integers(32 ** 2, 600 ** 2))
def test_every_sample_has_a_common_size_within_the_area(sizes, multiple, area):
    common = find_bucket_sizes(sizes, area, multiple)
    assert len(common) == len(sizes)
    for height, width in common:
        assert height * width <= area and height % multiple == width % multiple == 0 and min(height, width) > 0


def test_common_sizes_keep_the_aspect():
    sizes = find_bucket_sizes([(512, 512), (1024, 1024), (1200, 800), (800, 1200)], 512 ** 2)
    assert sizes[:2] == [(512, 512)] * 2
    (h, w), turned = sizes[2:]
    assert abs(h / w - 1.5) < 0.05 and turned[0] < turned[1] and 0.9 * 512 ** 2 < h * w
    with pytest.raises(ValueError, match="an area of 200 pixels"):
        find_bucket_sizes([(1, 1)], 200)


# The cache


def encode(sample):
    encode.calls += 1
    image = sample["image"].half()
    return {"latent": image.transpose(1, 2), "shared": image.transpose(1, 2), "labels": sample["labels"]}


@pytest.fixture
def cached(tmp_path):
    encode.calls = 0
    return CachedDataset(faces([(16, 16)] * 4), encode, tmp_path / "cache", {"vae": "a", "scale": 1})


def test_samples_are_encoded_once(cached, tmp_path):
    first, second = cached[2], cached[2]
    assert encode.calls == 1 and first["name"] == "2"
    for name, tensor in encode(cached.dataset[2]).items():
        assert torch.equal(first[name], tensor) and torch.equal(second[name], tensor)
        assert first[name].dtype == tensor.dtype
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".safetensors"]
    cached.fill()
    assert encode.calls == 5  # 0, 1 and 3 are new, 2 was there, and the fresh one above


def test_processes_share_the_encoding(cached):
    cached.fill(1, 2)
    assert [cached.get_path(k).exists() for k in range(4)] == [False, True, False, True]
    cached.fill(0, 2)
    assert encode.calls == 4 and all(cached.get_path(k).exists() for k in range(4))


def test_a_closed_cache_encodes_nothing(cached):
    cached.fill()
    cached.close()
    assert cached.encode is None and cached[1]["name"] == "1"
    cached.get_path(2).unlink()
    with pytest.raises(FileNotFoundError, match="cache: .*was removed: start the run again"):
        cached[2]


def test_what_is_not_finite_is_not_stored(cached, monkeypatch):
    monkeypatch.setattr(cached, "encode", lambda sample: {"latent": torch.tensor([0.0, float("nan")])})
    with pytest.raises(ValueError, match="data: 0: its latent is not finite after encoding"):
        cached.fill()
    assert not cached.get_path(0).exists()


def test_a_changed_sample_is_encoded_again(cached, tmp_path, monkeypatch):
    cached.fill()
    monkeypatch.setattr(Stored, "describe_state", lambda self: self.name == "2")
    again = CachedDataset(cached.dataset, encode, tmp_path / "cache", {"vae": "a", "scale": 1})
    assert again.get_path(2) != cached.get_path(2)


@pytest.mark.parametrize("key, size", [({"vae": "b", "scale": 1}, 16), ({"vae": "a", "scale": 2}, 16),
                                       ({"vae": "a", "scale": 1}, 24)])
def test_another_key_or_size_is_another_file(cached, tmp_path, key, size):
    cached.fill()
    other = CachedDataset(faces([(size, size)] * 4), encode, tmp_path / "cache", key)
    assert {other.get_path(k) for k in range(4)}.isdisjoint(cached.get_path(k) for k in range(4))
    same = CachedDataset(faces([(16, 16)] * 4), encode, tmp_path / "cache", {"scale": 1, "vae": "a"})
    assert [same.get_path(k) for k in range(4)] == [cached.get_path(k) for k in range(4)]


def test_a_stopped_write_leaves_no_file(cached, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cached[0]
    monkeypatch.undo()
    assert not cached.get_path(0).exists() and cached[0]["latent"].shape == (3, 16, 16)


def test_file_digest(tmp_path):
    (tmp_path / "model").write_bytes(b"abc")
    assert compute_file_digest(tmp_path / "model").startswith("ba7816bf8f01cfea")
