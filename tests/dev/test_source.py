"""Rules that hold for every file of the repository."""
import ast
import subprocess
import sys

import pytest

from devtools import density

LONGEST = 500  # lines


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


@pytest.mark.parametrize("kind", density.CEILINGS)
def test_source_is_not_dense(root, kind):
    """`python -m devtools.density mdit --list` names the places."""
    assert density.measure_density(root / "mdit")[kind] <= density.CEILINGS[kind]


def test_no_function_is_defined_twice_in_a_package(root):
    assert density.find_defined_twice(root / "mdit") == {}


def test_density_counts_what_it_says(tmp_path):
    """One of each kind in eight lines; an unpacked result of a call is not counted."""
    (tmp_path / "dense.py").write_text("a, b = 1, 2\nc = [[x for x in y] for y in z]\nf(*c)\na, b = f(c)\n")
    (tmp_path / "twice.py").write_text("def f(): pass\n")
    (tmp_path / "again.py").write_text("def f(): pass\nclass A:\n    def f(self): pass\n")
    assert density.measure_density(tmp_path) == dict.fromkeys(density.CEILINGS, 1000 / 8)
    assert density.find_defined_twice(tmp_path) == {f"{tmp_path.name}: f": ["again.py", "twice.py"]}


def test_source_is_ascii(sources):
    assert [str(path) for path in sources if not path.read_bytes().isascii()] == []


@pytest.mark.parametrize("file", ["dev.py", "devtools/__init__.py", "devtools/environment.py"])
def test_dev_is_read_by_pythons_that_it_refuses(root, file):
    ast.parse((root / file).read_text(), feature_version=(3, 7))


def test_dev_needs_the_standard_library_alone(root, tmp_path):
    command = [sys.executable, "-I", "-S", root / "dev.py", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
