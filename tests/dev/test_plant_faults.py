"""Faults that are planted at random: what is changed, which tests run, and what the script says."""
import ast
import json

import pytest

from devtools import plant_faults

SOURCE = '''"""A module."""
LIMIT = 3


def scale(x, by=2, *, keep: bool = False):
    """A docstring of 5 words."""
    if x < LIMIT and not keep:
        raise ValueError(f"{x + 1} is below", LIMIT)
    x += by
    log(x, by, keep=keep, help="a text"[0])
    return -x if keep else x * by
'''
TESTS = {
    "tests/sums/test_add.py": "from mdit.sums import add\n\ndef test_add():\n    assert add.add(2, 3) == 5\n",
    "tests/sums/test_other.py": "",
    "tests/shared/test_uses.py": "from mdit.sums import add",
    "tests/e2e/test_add.py": "",
    "tests/nodes/test_more.py": "",
}


@pytest.fixture
def checkout(tmp_path):
    files = {"mdit/sums/add.py": "def add(a, b):\n    spare = 1\n    return a + b\n", **TESTS}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "conftest.py").touch()
    return tmp_path


def test_each_kind_of_place_is_changed():
    faults = {(fault.kind, fault.old, fault.new) for fault in plant_faults.list_faults("a.py", SOURCE)}
    assert faults == {
        ("constant", "3", "4"), ("constant", "2", "3"), ("constant", "False", "True"),
        ("operator", "x < LIMIT and not keep", "x < LIMIT or not keep"), ("operator", "x < LIMIT", "x <= LIMIT"),
        ("operator", "not keep", "keep"), ("operator", "-x", "x"), ("operator", "x * by", "x + by"),
        ("branch", "-x if keep else x * by", "x * by if keep else -x"),
        ("argument", 'log(x, by, keep=keep, help="a text"[0])', "log(x, by, help='a text'[0])"),
        ("argument", 'log(x, by, keep=keep, help="a text"[0])', "log(x, keep=keep, help='a text'[0])"),
        ("statement", "x += by", "pass"), ("statement", 'log(x, by, keep=keep, help="a text"[0])', "pass"),
        ("statement", 'if x < LIMIT and not keep:\n        raise ValueError(f"{x + 1} is below", LIMIT)', "pass"),
    }


def test_a_fault_changes_its_place_alone():
    for fault in plant_faults.list_faults("a.py", SOURCE):
        ast.parse(fault.text)
        assert fault.text != SOURCE
        if "\n" not in fault.old:
            changed = [i for i, lines in enumerate(zip(fault.text.splitlines(), SOURCE.splitlines()), 1)
                       if lines[0] != lines[1]]
            assert changed == [fault.line]


def test_branches_keep_their_indentation():
    source = "def f(a):\n    if a:\n        b = 'x'\n    else:\n        b = 'y'\n    return b\n"
    (fault,) = [fault for fault in plant_faults.list_faults("a.py", source) if fault.kind == "branch"]
    assert fault.text == "def f(a):\n    if a:\n        b = 'y'\n    else:\n        b = 'x'\n    return b\n"


def test_the_seed_chooses_the_faults(root):
    chosen = [plant_faults.choose_faults(root, ["mdit/shared", "nodes/pt_dit.py"], 5, seed) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 5
    assert {fault.file.split("/")[0] for fault in plant_faults.choose_faults(root, ["nodes"], 3, 0)} == {"nodes"}


def test_the_mirror_comes_first_then_what_names_the_file(checkout):
    assert plant_faults.list_tests(checkout, "mdit/sums/add.py") == [
        "tests/sums/test_add.py", "tests/sums/test_other.py", "tests/shared/test_uses.py"]
    assert plant_faults.list_tests(checkout, "nodes/add.py") == ["tests/e2e/test_add.py"]


def test_what_the_tests_see_is_red_and_the_share_is_told(checkout, monkeypatch, capsys):
    monkeypatch.setattr(plant_faults, "ROOT", checkout)
    plant_faults.main(["--count", "9", "--under", "mdit"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["green", "red"]
    assert any(line.startswith("red ") and line.endswith("tests/sums/test_add.py::test_add") for line in lines)
    assert json.loads(last) == {"faults": 2, "red": 1, "green": 1, "late": 0, "share": 0.5, "seed": 0}
    assert (checkout / "mdit" / "sums" / "add.py").read_text().endswith("return a + b\n")


def test_tests_that_fail_without_a_fault_are_no_measure(checkout, monkeypatch):
    (checkout / "tests" / "sums" / "test_other.py").write_text("def test_broken():\n    assert False\n")
    monkeypatch.setattr(plant_faults, "ROOT", checkout)
    with pytest.raises(SystemExit, match="without a fault, too: tests/sums/test_other.py::test_broken"):
        plant_faults.main(["--under", "mdit"])
