"""Model and parser of 128 px, which came with the pack first: files of their layout load and run.

data/files-of-128-px.json holds the headers of the two files and the shapes of their weights; the parser had no header.
"""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.labelmap import CLASSES
from mditface.mdit.mditface import host
from mditface.mdit.mditface.mask import MaskInput
from mditface.mdit.parsing import ParserConfig, load_parser
from mditface.tests.mditface import tiny
from mditface.tests.mditface.runs import masked, run

FIRST = json.loads(Path(__file__).with_name("data").joinpath("files-of-128-px.json").read_text())


@pytest.fixture
def write(tmp_path):
    """A file of random weights in the layout of one of the two."""
    def write(name: str, header: dict[str, str] | None = None) -> Path:
        generator = torch.Generator().manual_seed(0)
        weights = {key: 0.05 * torch.randn(shape, generator=generator).half() for key, shape in FIRST[name].items()}
        path = tmp_path / f"{name}.safetensors"
        save_file(weights, path, header)
        return path
    return write


def test_the_first_model_draws(write):
    loaded = host.load_mdit(str(write("model", FIRST["header"])))
    texts = tiny.conditioning(loaded.clip, "young woman"), tiny.conditioning(loaded.clip, "")
    mask = MaskInput(tiny.labels(side=128), torch.ones(len(CLASSES)))
    latent, _ = run(loaded.model, masked(texts[0], mask), texts[1], latent=torch.zeros(1, 3, 128, 128), steps=2)
    image = loaded.vae.decode(latent)
    assert image.shape == (1, 128, 128, 3) and image.isfinite().all() and image.std() > 0


def test_the_first_parser_reads_128_px(write):
    parser = load_parser(write("parser"))
    assert parser.config == ParserConfig(128, (32, 64, 96, 128))
    assert parser.parse(torch.zeros(96, 80, 3, dtype=torch.uint8).numpy()).shape == (96, 80)
