"""Which folders of the sources may import which: the rules of docs/architecture.md."""
import ast
from collections import defaultdict
from pathlib import Path

import pytest

SYSTEMS = ("mditface", "face_mogle", "interactdiffusion", "face_diffuser", "pt_dit", "dynast", "mmface")


def imported(path: Path, root: Path) -> set[str]:
    """The modules of the repository that a file imports, as folders and files below the root."""
    package = path.parent.relative_to(root).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            base = [*above, *(node.module or "").split(".")]
            found.update("/".join(filter(None, [*base, alias.name])) for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name.replace(".", "/") for alias in node.names)
    return {name.removeprefix("mditface/") if name.startswith(("mditface/mdit", "mditface/nodes")) else name
            for name in found}


@pytest.fixture(scope="module")
def imports(root) -> dict[str, set[str]]:
    """What the files of a folder import, by the folder: nodes, or one of mdit."""
    found = defaultdict(set)
    for top in ("nodes", "mdit"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).parts
            found["/".join(parts[:2]) if top == "mdit" else top] |= imported(path, root)
    return found


def within(names: set[str], folder: str) -> list[str]:
    return sorted(name for name in names if name == folder or name.startswith(folder + "/"))


def test_imports_are_found(tmp_path):
    file = tmp_path / "mdit" / "dynast" / "model.py"
    file.parent.mkdir(parents=True)
    lines = ("from ..shared.norm import norm", "from . import label", "from mditface.mdit import pt_dit",
             "import bench.dynast")
    file.write_text("\n".join(lines))
    assert imported(file, tmp_path) == {"mdit/shared/norm/norm", "mdit/dynast/label", "mdit/pt_dit", "bench/dynast"}


def test_the_mathematics_does_not_import_the_nodes(imports):
    assert {folder: found for folder, names in imports.items() if folder != "nodes"
            for found in [within(names, "nodes")] if found} == {}


@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_do_not_import_each_other(imports, system):
    others = [other for other in SYSTEMS if other != system]
    names = imports[f"mdit/{system}"]
    assert [name for other in others for name in within(names, f"mdit/{other}")] == []


def test_what_is_packed_imports_only_what_is_packed(root, imports):
    left_out = [line.rstrip("/") for line in (root / ".comfyignore").read_text().splitlines()
                if line and not line.startswith("#")]
    faults = [f"{folder}: {name}" for folder, names in imports.items() if folder not in left_out
              for ignored in left_out for name in within(names, ignored)]
    assert faults == []
