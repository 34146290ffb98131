"""The bundled parser of faces, without a host."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.parsing import FaceParser, ParserConfig, load_parser


def test_parser_reads_any_size():
    parser = FaceParser().eval()
    assert sum(w.numel() for w in parser.parameters()) <= 1_200_000
    parsed = parser.parse(np.zeros((70, 51, 3), np.uint8))
    assert parsed.shape == (70, 51) and parsed.dtype == np.uint8


def test_parser_names_bad_input():
    parser = FaceParser().eval()
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        parser.parse(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="nearest"):
        parser.measure_agreement(np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match="configs/judge.yaml"):
        load_parser("nowhere.safetensors")


def test_a_file_without_a_header_reads_128_px(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file(FaceParser().state_dict(), path)
    assert load_parser(path).config == ParserConfig(128, (32, 64, 96, 128))


def test_a_parser_of_another_size_keeps_it_in_its_file(tmp_path):
    config = ParserConfig(32, (4, 6, 8))
    made = FaceParser(config).eval()
    path = tmp_path / "new.safetensors"
    save_file(made.state_dict(), path, config.to_metadata())
    parser = load_parser(path)
    image = np.random.default_rng(0).integers(0, 256, (40, 24, 3), dtype=np.uint8)
    assert parser.read_image(image).shape == (1, 3, 32, 32)
    assert parser.config == config and np.array_equal(parser.parse(image), made.parse(image))
    assert parser.describe(image).shape == (18,)


@pytest.mark.parametrize("header", ["{\"size\": 32, \"depth\": 3}", "{", "[]", "{\"size\": 30}"])
def test_a_damaged_header_is_named(tmp_path, header):
    path = tmp_path / "bad.safetensors"
    save_file({"weight": torch.zeros(1)}, path, {"mdit.parser": header})
    with pytest.raises(ValueError, match="mdit.parser"):
        load_parser(path)


def test_parser_needs_no_host(root):
    code = "import sys, mdit.parsing; sys.exit(any(name.split('.')[0] == 'comfy' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
