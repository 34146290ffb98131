"""Fixtures of the laboratory's tests. They import the pack inside: pytest reads this file before the host is set up."""
import json

import numpy as np
import pytest


@pytest.fixture
def in_training():
    from mditface.tests.training.tiny_targets import trainer_state
    with trainer_state():
        yield


@pytest.fixture
def shards(tmp_path):
    """A shard of images that show their label map's colours."""
    from mditface.mdit.labelmap import PALETTE
    from mditface.mdit.render.appearance import sample_appearance
    from mditface.mdit.render.caption import Caption
    from mditface.tests.recipes.tiny_targets import SIDE
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 19, (16, 4, 4), dtype=np.uint8).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    appearances = [sample_appearance(rng) for _ in labels]
    folder = tmp_path / "shards"
    folder.mkdir()
    np.savez(folder / "00000.npz", image=np.array(PALETTE, np.uint8)[labels], label=labels,
             caption=list(map(Caption.short, appearances)), attributes=list(map(json.dumps, appearances)))
    return folder


@pytest.fixture
def paths(shards, tmp_path):
    """Paths of a run on the shards."""
    from mditface.tests.training.tiny_targets import run_paths
    return run_paths(tmp_path, data=shards)


@pytest.fixture
def demo(paths):
    from mditface.mdit.recipes.targets.kinds import DemoSettings, DemoTarget
    from mditface.tests.recipes.tiny_targets import DEMO
    return DemoTarget(DemoSettings(**DEMO, **paths))


@pytest.fixture
def coder_file(tmp_path):
    """An untrained autoencoder whose latents are nearly linear in the image."""
    import torch
    from safetensors.torch import save_file

    from mditface.mdit.mditface.autoencoder import Autoencoder, AutoencoderConfig
    from mditface.mdit.mditface.latents import LatentStatistics
    from mditface.mdit.recipes.latents import PREFIX
    torch.manual_seed(0)
    levels = ((8, 1), (8, 0), (8, 0), (12, 1))  # a cell of 16 px
    config = AutoencoderConfig(channels=12, encoder=levels, decoder=levels)
    network = Autoencoder(config)
    network.initialize()
    statistics = LatentStatistics([0.1] * 12, [0.5] * 12, [[0.1] * 3] * 12, [0.0] * 3)
    path = tmp_path / "autoencoder.safetensors"
    save_file({PREFIX + name: w for name, w in network.state_dict().items()}, path,
              config.to_metadata() | statistics.to_metadata())
    return path


@pytest.fixture
def latent_paths(paths, coder_file):
    return paths | {"autoencoder": coder_file}
