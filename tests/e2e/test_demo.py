"""The newcomer's command: `python dev.py demo`, from the bundled weights to the printed figures."""
import re
import subprocess
import sys

from PIL import Image

from devtools.bundled import read_model_size

LEAST_AGREEMENT = 0.8  # of the pixels; the parser reads true renders at about 0.93


def demo(root, *arguments):
    command = [sys.executable, "-m", "devtools.demo", "--seed", "0", *map(str, arguments)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)


def test_demo_draws_a_face_that_follows_the_mask(root, tmp_path):
    done = demo(root, "--out", tmp_path / "face.png")
    assert done.returncode == 0, done.stderr
    size = read_model_size()
    assert Image.open(tmp_path / "face.png").size == (size, size)
    assert Image.open(tmp_path / "face-sheet.png").size == (2 * size, size)
    assert "static passes 1, cache hits 19" in done.stdout
    assert float(re.search(r"label agreement +([\d.]+)", done.stdout)[1]) > LEAST_AGREEMENT, done.stdout


def test_demo_takes_a_mask_and_a_prompt(root, tmp_path):
    mask = root / "mdit" / "labelmap" / "examples" / "man.png"
    done = demo(root, "--mask", mask, "--prompt", "old man, bald, dark skin", "--out", tmp_path / "man.png")
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"label agreement +([\d.]+)", done.stdout)[1]) > LEAST_AGREEMENT, done.stdout
