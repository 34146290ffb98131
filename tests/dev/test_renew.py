"""dev.py renew takes no arguments and names the files that it wrote."""
import pytest

from devtools import renew


@pytest.mark.parametrize("argument, code", [("--help", 0), ("MDiT_Sampler", 2)])
def test_arguments_start_nothing(monkeypatch, capsys, argument, code):
    monkeypatch.setattr(renew, "load_pack", lambda base: pytest.fail("it started"))
    with pytest.raises(SystemExit) as stop:
        renew.main([argument])
    assert stop.value.code == code
    said = capsys.readouterr()
    assert "usage: dev.py renew" in said.out + said.err


def test_changed_files_are_named(tmp_path):
    for file in ("locales/en/main.json", "docs/nodes.md", "example_workflows/one.jpg"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("old")
    before = renew.contents(tmp_path)
    assert renew.changed_files(tmp_path, before) == []
    (tmp_path / "docs" / "nodes.md").write_text("new")
    (tmp_path / "example_workflows" / "two.jpg").write_text("new")
    assert renew.changed_files(tmp_path, before) == ["wrote docs/nodes.md", "wrote example_workflows/two.jpg"]


def test_every_pattern_names_files(root):
    assert [pattern for pattern in renew.WRITTEN if not list(root.glob(pattern))] == []
