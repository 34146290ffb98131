"""The bundled parser of faces, without a host."""
import subprocess
import sys

import numpy as np
import pytest

from mditface.mdit.parsing import FaceParser, load_parser


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


def test_parser_needs_no_host(root):
    code = "import sys, mdit.parsing; sys.exit(any(name.split('.')[0] == 'comfy' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
