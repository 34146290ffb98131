"""Rules that hold for every file of the repository."""
import ast
import subprocess
import sys

import pytest

LONGEST = 500


@pytest.fixture(scope="module")
def sources(root):
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for path in map(root.joinpath, listed.stdout.splitlines()) if path.is_file()]


def test_lint(root):
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", root]
    ruff = subprocess.run(command, capture_output=True, text=True)
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_files_are_short(sources):
    long = {str(path): lines for path in sources if (lines := len(path.read_text().splitlines())) >= LONGEST}
    assert long == {}


def test_source_is_ascii(sources):
    assert [str(path) for path in sources if not path.read_bytes().isascii()] == []


def test_dev_is_read_by_pythons_that_it_refuses(root):
    ast.parse((root / "dev.py").read_text(), feature_version=(3, 7))


def test_dev_needs_the_standard_library_alone(root):
    command = [sys.executable, "-I", "-S", root / "dev.py", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
