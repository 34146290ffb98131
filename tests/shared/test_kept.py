"""Models that are kept while their file stays."""
import os

import pytest

from mditface.mdit.shared.kept import recall_model


def load(path):
    return [path.read_text()]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "weights"
    file.write_text("old")
    return file


def test_a_file_that_stays_is_read_once(file):
    assert recall_model(load, file) is recall_model(load, file)


def test_a_replaced_file_is_read_again(file, tmp_path):
    before = recall_model(load, file)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    (tmp_path / "other").write_text("new")  # of the same size
    os.utime(tmp_path / "other", ns=times)
    (tmp_path / "other").replace(file)
    assert before == ["old"] and recall_model(load, file) == ["new"]


def test_a_file_that_is_gone_is_named(file):
    recall_model(load, file)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="weights"):
        recall_model(load, file)


def test_each_device_has_its_own(file, monkeypatch):
    before = recall_model(load, file)
    monkeypatch.setattr("comfy.model_management.get_torch_device", lambda: "another")
    assert recall_model(load, file) is not before
