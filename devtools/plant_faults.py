"""Plants faults at random and names those that no test sees.

    python dev.py run -- python -m devtools.plant_faults [--count 60] [--seed 0] [--under FOLDER ...]

Each fault changes one place of `mdit/` or `nodes/`: a number, an operator, an argument, a branch or a statement. It
goes into a copy of the checkout in a temporary folder, where the tests run that mirror its file. Which faults are
planted follows from the seed alone. The last line is a JSON object. A person judges what stays green: some faults
change nothing that matters.
"""
from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from devtools.host import ROOT

SOURCES = ("mdit", "nodes")
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "artefacts", "node_modules", ".*_cache")
ELSEWHERE = ("dev", "e2e")  # folders of tests that mirror no source
MIRRORS = {"mditface/adapter": "adapter"}
OPTIONS = ("-q", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider")
FRESH = {"PYTHONDONTWRITEBYTECODE": "1"}  # bytecode of one fault passes for that of another of equal length and second
TEXTS = ("description", "display_name", "help", "prog", "tooltip")  # arguments that change no number
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.MatMult: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.USub: ast.UAdd,
}


class Fault(NamedTuple):
    """One changed place: what stood there, what stands there now, and the whole text of the file with it."""
    file: str
    line: int
    kind: str
    old: str
    new: str
    text: str


def list_faults(file: str, source: str) -> list[Fault]:
    """Every fault that can be planted in a file."""
    tree, faults = ast.parse(source), []
    for node in list_code(tree):
        for kind, changed in change(node):
            new = "pass" if changed is None else ast.unparse(changed)
            old = ast.get_source_segment(source, node)
            faults.append(Fault(file, node.lineno, kind, old, new, replace(source, node, f"({new})" if isinstance(
                changed, ast.expr) else new)))
    return faults


def list_code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of what runs: without annotations, docstrings, formatted texts and the sentences of errors."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Raise)) and not is_text(child):
                yield child
                yield from list_code(child)


def is_text(node: ast.AST) -> bool:
    """Whether an argument holds what people read."""
    return isinstance(node, ast.keyword) and node.arg in TEXTS


def change(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """The faults of one node: a kind, and what takes the node's place (None: it goes)."""
    match node:
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield "operator", ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield "operator", ast.BoolOp(OPERATORS[type(operator)](), values)
        case ast.Compare(left, [operator, *rest], comparators):
            yield "operator", ast.Compare(left, [OPERATORS[type(operator)](), *rest], comparators)
        case ast.UnaryOp(ast.Not(), operand):
            yield "operator", operand
        case ast.UnaryOp(ast.USub(), operand):
            yield "operator", operand
        case ast.IfExp(test, body, orelse):
            yield "branch", ast.IfExp(test, orelse, body)
        case ast.Call(function, arguments, keywords):
            yield from drop_arguments(function, arguments, keywords)
        case ast.If(test, body, []):
            yield "statement", None
        case ast.AugAssign() | ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "statement", None
    if isinstance(node, ast.If) and node.orelse and not isinstance(node.orelse[0], ast.If):
        yield "branch", ast.If(node.test, node.orelse, node.body)


def drop_arguments(function, arguments, keywords) -> Iterator[tuple[str, ast.Call]]:
    for i, keyword in enumerate(keywords):
        if not is_text(keyword):
            yield "argument", ast.Call(function, arguments, keywords[:i] + keywords[i + 1:])
    if len(arguments) > 1:
        yield "argument", ast.Call(function, arguments[:-1], keywords)


def replace(source: str, node: ast.AST, new: str) -> str:
    """The source with other text in a node's place; blocks keep their indentation."""
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    before = b"".join(lines[:node.lineno - 1]) + lines[node.lineno - 1][:node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset:] + b"".join(lines[node.end_lineno:])
    return (before + new.replace("\n", "\n" + " " * node.col_offset).encode() + after).decode()


def choose_faults(root: Path, under: list[str], count: int, seed: int) -> list[Fault]:
    """As many faults in files under the given folders, each place as likely as any other."""
    files = sorted({file for folder in under for file in [root / folder, *(root / folder).rglob("*.py")]
                    if file.suffix == ".py"})
    faults = [fault for file in files for fault in list_faults(file.relative_to(root).as_posix(), file.read_text())]
    return random.Random(seed).sample(faults, min(count, len(faults)))


def list_tests(root: Path, file: str) -> list[str]:
    """The test files of a source file: its namesake, the rest of the folder that mirrors it, others that name it.

    Nodes have their tests on the booted server, too.
    """
    package, stem = Path(file).parts[:-1], Path(file).stem
    mirror = MIRRORS.get("/".join(package[1:3]), package[1] if len(package) > 1 else stem)
    names = re.compile(rf"\b{package[-1]}(\.| import .*\b){stem}\b")
    tests = [test for test in sorted((root / "tests").glob("*/test_*.py")) if test.parent.name not in ELSEWHERE]
    found = [test for test in tests if test.parent.name == mirror]
    found += [test for test in tests if test.parent.name != mirror and names.search(test.read_text())]
    if package == ("nodes",):
        ours = "dev/test_pages.py", "e2e/test_published.py", f"e2e/test_{stem}.py"
        found += [root / "tests" / name for name in ours]
    found.sort(key=lambda test: test.stem != f"test_{stem}" or test.parent.name != mirror)
    return [test.relative_to(root).as_posix() for test in found if test.is_file()]


def run_tests(root: Path, tests: list[str], limit: float) -> tuple[str, str]:
    """`red` and the first test that failed, `green`, or `late` where the time was over first."""
    if not tests:
        return "green", ""
    result = subprocess.run([sys.executable, "-m", "pytest", *OPTIONS, f"--session-timeout={limit}", *tests], cwd=root,
                            env=os.environ | FRESH, capture_output=True, text=True)
    if result.returncode == 0:
        return "green", ""
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", result.stdout, re.M)
    return ("red", failed[1]) if failed else ("late", "")


def plant(root: Path, fault: Fault, limit: float) -> tuple[str, str]:
    """What the tests say about a fault in a copy of the checkout, as from `run_tests`."""
    file = root / fault.file
    sound = file.read_text()
    file.write_text(fault.text)
    try:
        return run_tests(root, list_tests(root, fault.file), limit)
    finally:
        file.write_text(sound)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="devtools.plant_faults", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--under", nargs="+", default=SOURCES, help="folders or files")
    parser.add_argument("--limit", type=float, default=600, help="seconds for the tests of one fault")
    options = parser.parse_args(argv)
    said, failed = [], set()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(shutil.copytree(ROOT, Path(folder) / "mditface", ignore=LEFT_OUT))
        for fault in choose_faults(root, options.under, options.count, options.seed):
            color, test = plant(root, fault, options.limit)
            said.append(color)
            failed.add(test)
            change = f"{fault.kind}: {fault.old!r} -> {fault.new!r}"
            print(f"{color:6} {fault.file}:{fault.line} {change} {test}", flush=True)
        color, test = run_tests(root, sorted(failed - {""}), 60 * options.limit)
        if color != "green":
            sys.exit(f"the tests fail without a fault, too: {test}")
    counts = {color: said.count(color) for color in ("red", "green", "late")}
    print(json.dumps({"faults": len(said), **counts, "share": counts["red"] / max(len(said), 1), "seed": options.seed}))


if __name__ == "__main__":
    main()
