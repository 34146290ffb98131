"""How densely a folder's Python code is written, per 1,000 lines.

    python dev.py run -- python -m devtools.density FOLDER [--list]

Three constructs are counted: packed assignments (`a, b = x, y`), comprehensions that hold another comprehension, and
calls with `*arguments`. `--list` names the line of each.
"""
from __future__ import annotations

import argparse
import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CEILINGS = {"packed": 5.0, "nested": 0.3, "splat": 3.0}  # per 1,000 lines
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Find(NamedTuple):
    """One counted construct."""
    kind: str  # a key of CEILINGS
    path: Path
    line: int


def is_packed(node: ast.AST) -> bool:
    """A tuple is taken apart that is written out on the right side."""
    return (isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
            and any(isinstance(target, ast.Tuple) for target in node.targets))


def is_nested(node: ast.AST) -> bool:
    """A comprehension holds another one."""
    return isinstance(node, COMPREHENSIONS) and any(
        isinstance(inner, COMPREHENSIONS) for inner in ast.walk(node) if inner is not node)


def is_splat(node: ast.AST) -> bool:
    """A call unpacks positional arguments."""
    return isinstance(node, ast.Call) and any(isinstance(argument, ast.Starred) for argument in node.args)


TESTS = {"packed": is_packed, "nested": is_nested, "splat": is_splat}


def find_constructs(path: Path) -> Iterator[Find]:
    """The counted constructs of one file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        for kind, is_kind in TESTS.items():
            if is_kind(node):
                yield Find(kind, path, node.lineno)


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def measure_density(folder: Path) -> dict[str, float]:
    """Constructs of each kind per 1,000 lines of a folder."""
    counts = Counter()
    lines = 0
    for path in sources(folder):
        counts.update(found.kind for found in find_constructs(path))
        lines += len(path.read_text("utf-8").splitlines())
    return {kind: 1000 * counts[kind] / lines for kind in CEILINGS}


def find_defined_twice(folder: Path) -> dict[str, list[str]]:
    """Modules that define a function of the same name at their top level, by `package: function`.

    A package is a folder's own modules, without those of the folders in it.
    """
    modules = defaultdict(list)
    for path in sources(folder):
        package = path.parent.relative_to(folder.parent).as_posix()
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, FUNCTIONS) and node.name != "main":
                modules[f"{package}: {node.name}"].append(path.name)
    return {name: files for name, files in modules.items() if len(files) > 1}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devtools.density", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="name the line of each construct")
    options = parser.parse_args()
    if options.list:
        for path in sources(options.folder):
            for found in sorted(find_constructs(path), key=lambda found: found.line):
                print(f"{path}:{found.line} {found.kind}")
        for name, files in find_defined_twice(options.folder).items():
            print(f"{name} is defined in {', '.join(files)}")
    for kind, value in measure_density(options.folder).items():
        print(f"{kind:8}{value:6.1f}  (at most {CEILINGS[kind]})")


if __name__ == "__main__":
    main()
