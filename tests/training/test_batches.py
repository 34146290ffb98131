"""Batches of faces: buckets of sizes, their sampler, and the cache of encoded samples."""
import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mditface.mdit.datasets import (
    Buckets, BucketSampler, CachedDataset, FaceDataset, batches, collate, file_digest,
)
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


def faces(sizes):
    return FaceDataset([Stored(str(k), size) for k, size in enumerate(sizes)], sizes)


@settings(deadline=None)
@given(SIZES, st.sampled_from([16, 32]), st.integers(32 ** 2, 600 ** 2))
def test_buckets_hold_every_sample_once(sizes, multiple, area):
    buckets = Buckets(sizes, area, multiple)
    assert sorted(itertools.chain(*buckets.members.values())) == list(range(len(sizes)))
    for shape, members in buckets.members.items():
        assert shape[0] * shape[1] <= area and shape[0] % multiple == shape[1] % multiple == 0 and min(shape) > 0
        assert all(buckets.shapes[index] == shape for index in members)


def test_buckets_keep_the_aspect():
    buckets = Buckets([(512, 512), (1024, 1024), (1200, 800), (800, 1200)], 512 ** 2)
    assert buckets.shapes[:2] == [(512, 512)] * 2
    (h, w), turned = buckets.shapes[2:]
    assert abs(h / w - 1.5) < 0.05 and turned[0] < turned[1] and 0.9 * 512 ** 2 < h * w
    with pytest.raises(ValueError, match="an area of 200 pixels"):
        Buckets([(1, 1)], 200)


@settings(deadline=None)
@given(SIZES, st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_every_sample_once_an_epoch_over_all_ranks(sizes, batch, ranks, seed):
    buckets = Buckets(sizes, 256 ** 2, 32)
    samplers = [BucketSampler(buckets, batch, seed, rank, ranks) for rank in range(ranks)]
    steps = -(-3 * samplers[0].per_epoch // ranks)
    turns = list(itertools.chain(*zip(*(itertools.islice(sampler, steps) for sampler in samplers))))
    for epoch in range(3):
        seen = turns[epoch * samplers[0].per_epoch:(epoch + 1) * samplers[0].per_epoch]
        assert sorted(itertools.chain(*seen)) == list(range(len(sizes)))
        assert all(len({buckets.shapes[index] for index in group}) == 1 and len(group) <= batch for group in seen)


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(1, 3), st.integers(0, 9))
def test_resuming_is_exact(done, ranks, seed):
    buckets = Buckets([(1 + k % 5, 3) for k in range(37)], 64 ** 2)
    whole = list(itertools.islice(BucketSampler(buckets, 4, seed, ranks - 1, ranks), 60))
    stopped, resumed = (BucketSampler(buckets, 4, seed, ranks - 1, ranks) for _ in range(2))
    stopped.step = done
    resumed.load_state_dict(stopped.state_dict())
    assert list(itertools.islice(resumed, 60 - done)) == whole[done:]
    assert resumed.epoch == (done * ranks + ranks - 1) // resumed.per_epoch


def test_order_depends_on_seed_and_epoch():
    buckets = Buckets([(1, 1)] * 30, 256)
    sampler = BucketSampler(buckets, 5)
    assert sampler.order(0) == BucketSampler(buckets, 5).order(0)
    assert sampler.order(0) != sampler.order(1) and sampler.order(0) != BucketSampler(buckets, 5, seed=1).order(0)


def test_a_state_of_other_data_is_refused():
    state = BucketSampler(Buckets([(1, 1)] * 30, 256), 5).state_dict()
    with pytest.raises(ValueError, match="with batch 5, now it is 6"):
        BucketSampler(Buckets([(1, 1)] * 30, 256), 6).load_state_dict(state)
    with pytest.raises(ValueError, match="with shapes"):
        BucketSampler(Buckets([(1, 1)] * 30, 1024), 5).load_state_dict(state)
    with pytest.raises(ValueError, match="ranks count from 0"):
        BucketSampler(Buckets([(1, 1)], 256), 5, rank=2, ranks=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_one_size_and_their_state(workers):
    """The state counts what was handed out, not what the workers have read ahead."""
    dataset = faces([(64, 64), (32, 64), (64, 64), (64, 64), (32, 64), (64, 64)])
    buckets = Buckets(dataset.sizes, 48 * 48)
    dataset = dataset.resized(buckets.shapes)
    sampler, again = BucketSampler(buckets, 3), BucketSampler(buckets, 3)
    stream = batches(dataset, sampler, workers)
    first = [next(stream) for _ in range(3)]
    assert {tuple(batch["labels"].shape[1:]) for batch in first} == {(48, 48), (32, 64)}
    assert all(batch["image"].shape[2:] == batch["labels"].shape[1:] for batch in first)
    again.load_state_dict(sampler.state_dict())
    assert again.step == 3
    assert [next(batches(dataset, again))["name"]] == [next(stream)["name"]]


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
    cached.fill(rank=0, ranks=2)
    assert encode.calls == 3  # 0 is new, 2 was there, and the fresh one above
    assert collate([cached[0], cached[1]])["latent"].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("key, size", [({"vae": "b", "scale": 1}, 16), ({"vae": "a", "scale": 2}, 16),
                                       ({"vae": "a", "scale": 1}, 24)])
def test_another_key_or_size_is_another_file(cached, tmp_path, key, size):
    cached.fill()
    other = CachedDataset(faces([(size, size)] * 4), encode, tmp_path / "cache", key)
    assert {other.path(k) for k in range(4)}.isdisjoint(cached.path(k) for k in range(4))
    same = CachedDataset(faces([(16, 16)] * 4), encode, tmp_path / "cache", {"scale": 1, "vae": "a"})
    assert [same.path(k) for k in range(4)] == [cached.path(k) for k in range(4)]


def test_a_stopped_write_leaves_no_file(cached, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cached[0]
    monkeypatch.undo()
    assert not cached.path(0).exists() and cached[0]["latent"].shape == (3, 16, 16)


def test_file_digest(tmp_path):
    (tmp_path / "model").write_bytes(b"abc")
    assert file_digest(tmp_path / "model").startswith("ba7816bf8f01cfea")
