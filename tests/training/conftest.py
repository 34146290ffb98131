"""Fixtures of the trainer's tests. They import the pack inside: pytest reads this file before the host is set up."""
import json

import numpy as np
import pytest


@pytest.fixture
def in_training():
    """A host that trains, and an accelerator that the next test may make with another precision."""
    from accelerate.state import AcceleratorState
    from mditface.mdit.training.trainer import training
    with training():
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def shards(tmp_path):
    """A shard of pictures that show their label map's colours."""
    from mditface.mdit.labelmap import PALETTE
    from mditface.mdit.render.caption import Caption
    from mditface.mdit.render.appearance import sample_appearance
    from mditface.tests.training.tiny_targets import SIDE
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (16, 4, 4), dtype=np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    looks = [sample_appearance(rng) for _ in labels]
    folder = tmp_path / "shards"
    folder.mkdir()
    np.savez(folder / "00000.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
             caption=[Caption.short(look) for look in looks], attributes=[json.dumps(look) for look in looks])
    return folder


@pytest.fixture
def paths(shards, tmp_path):
    return {"data": shards, "heldout": shards, "output": tmp_path / "run",
            "weights": tmp_path / "out" / "weights.safetensors"}


@pytest.fixture
def demo(paths):
    from mditface.mdit.recipes.targets.kinds import DemoSettings, DemoTarget
    from mditface.tests.training.tiny_targets import DEMO
    return DemoTarget(DemoSettings(**DEMO, **paths))
