"""Parts of the trainer: average of the weights, order of the batches, learning rates."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType

from mditface.mdit.training.average import Average
from mditface.mdit.training.data import BatchOrder
from mditface.mdit.training.settings import Schedule
from mditface.mdit.training.trainer import Trainer, scale_rate


def test_average_follows_with_the_ramp():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.5)
    torch.nn.init.ones_(layer.weight)
    average.update(0)
    assert average.mean["weight"].item() == pytest.approx(0.9)  # the decay is 1 / 10 at first
    with average.apply():
        assert layer.weight.item() == pytest.approx(0.9)
    assert layer.weight.item() == 1


def test_average_takes_a_norms_statistics():
    norm = torch.nn.BatchNorm1d(2)
    frozen = torch.nn.BatchNorm1d(2).requires_grad_(False)
    names = set(Average(torch.nn.Sequential(norm, frozen), 0.9).mean)
    assert names == {"0.weight", "0.bias", "0.running_mean", "0.running_var"}


def test_each_epoch_shows_every_sample_in_batches_of_one_key():
    keys = ["a"] * 7 + ["b"] * 3
    order = BatchOrder(keys, 2, seed=0)
    for epoch in range(2):
        batches = [order(step).tolist() for step in range(6 * epoch, 6 * epoch + 6)]
        assert {i for batch in batches for i in batch} == set(range(10))
        assert all(len({keys[i] for i in batch}) == 1 and len(batch) == 2 for batch in batches)
    assert [order(step).tolist() for step in range(6)] != batches
    with pytest.raises(ValueError, match="10 samples, fewer than a batch of 11"):
        BatchOrder(keys, 11, seed=0)


def test_sharded_weights_are_refused():
    target = SimpleNamespace(settings=None)
    for kind in ("FSDP", "DEEPSPEED"):
        with pytest.raises(ValueError, match=f"accelerate: {kind} is not supported"):
            Trainer(target, SimpleNamespace(distributed_type=DistributedType(kind)))
    Trainer(target, SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))


def test_rates_rise_and_fall():
    assert scale_rate(0, 1000, Schedule()) == 0.01
    assert scale_rate(500, 1000, Schedule()) == 1.0
    assert scale_rate(800, 1000, Schedule()) == pytest.approx(0.5)
    assert scale_rate(900, 1000, Schedule(shape="cosine")) == pytest.approx(0.5 - 0.5 * np.cos(np.pi / 4))
