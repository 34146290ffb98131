"""Which packages of mdit import which: no circles, and what ships works without the laboratory."""
import ast
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath

import pytest

LABORATORY = {"datasets", "render", "evaluation", "recipes"}
IMPORTS = "import mditface.nodes.training, mditface.mdit.training.graph"
PROGRAM = """
import sys
from pathlib import Path
from devtools import host
host.ROOT = Path(sys.argv[1])
host.load_pack(Path(sys.argv[2]))
%s
loaded = {name.split(".")[2] for name in sys.modules if name.startswith("mditface.mdit.")}
assert "training" in loaded and not loaded & %s, loaded
"""


def imports_of(path, root):
    """Dotted modules below mdit that a file imports, wherever the import stands."""
    package = ["mdit", *path.relative_to(root / "mdit").parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = package[:len(package) - node.level + 1]
            module = node.module.split(".") if node.module else []
            for name in node.names:
                yield [*start, *module, name.name]


@pytest.fixture(scope="module")
def packages(root):
    """The packages of mdit that each package imports."""
    found = {path.parent.name: set() for path in (root / "mdit").glob("*/__init__.py")}
    for name, others in found.items():
        for path in (root / "mdit" / name).rglob("*.py"):
            others.update(module[1] for module in imports_of(path, root) if module[1] in found)
        others.discard(name)
    return found


def test_packages_import_each_other_in_one_direction(packages):
    try:
        order = list(TopologicalSorter(packages).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {error.args[1]}")
    assert order.index("mditface") < order.index("training") < order.index("recipes")


def test_modules_import_each_other_in_one_direction(root):
    files = {path.relative_to(root).with_suffix("").as_posix().removesuffix("/__init__"): path
             for path in (root / "mdit").rglob("*.py")}
    graph = {}
    for name, path in files.items():
        graph[name] = set()
        for module in imports_of(path, root):
            target = PurePosixPath(*module)
            found = target if str(target) in files else target.parent
            if str(found) in files and str(found) != name:
                graph[name].add(str(found))
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {error.args[1]}")


def test_what_ships_imports_nothing_of_the_laboratory(packages):
    assert LABORATORY < set(packages)
    for name in set(packages) - LABORATORY:
        assert not packages[name] & LABORATORY, name


def test_training_node_works_without_the_laboratory(root, tmp_path):
    """In a copy of the pack that lacks the folders which the archive leaves out."""
    ignored = {line.strip("/").removeprefix("mdit/") for line in (root / ".comfyignore").read_text().splitlines()
               if line.startswith("mdit/")}
    assert ignored == LABORATORY
    pack = tmp_path / "pack"
    for name in ("nodes", "mdit", "locales", "web"):
        shutil.copytree(root / name, pack / name, ignore=shutil.ignore_patterns(*LABORATORY, "*.safetensors"))
    shutil.copy(root / "__init__.py", pack)
    program = PROGRAM % (IMPORTS, LABORATORY)
    done = subprocess.run([sys.executable, "-c", program, str(pack), str(tmp_path)], cwd=root, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
