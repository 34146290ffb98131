"""The bench of control maps: what it measures, and its output."""
import json

import pytest
import torch
from PIL import Image

from bench import control_maps
from mditface.mdit.datasets.reliefs import Reliefs
from mditface.mdit.render.dataset import write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heldout")
    write_shard((folder / "00000.npz", range(3)), seed=2, size=64, relief=True)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, folder):
    monkeypatch.setattr(control_maps.measure, "draw_renders", lambda *_, **__: folder)
    monkeypatch.setattr(control_maps, "LARGE", 64)
    monkeypatch.setattr(control_maps, "SHEET_SIZE", 32)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


def test_bench_ends_with_one_json_object(capsys, tmp_path):
    control_maps.main(["--sheet", str(tmp_path / "sheet.png")])
    printed = capsys.readouterr().out.splitlines()
    found = json.loads(printed[-1])
    assert (found["bench"], found["count"]) == ("control_maps", 3)
    for name in control_maps.MEASURES:
        assert 0 < found[name] < found[f"baseline_{name}"]
        assert found[f"crude_{name}_ratio"] > 0
    assert set(control_maps.GATES) < set(found) and found["megabytes"] < 4
    assert len(printed) == len(control_maps.GATES) + 2
    assert Image.open(tmp_path / "sheet.png").size == (10 * 32, 2 * 5 * 32)


def test_the_true_relief_has_no_error(folder):
    class Exact:
        def find_relief(self, labels):
            i = (renders.labels == labels).all((1, 2)).nonzero()[0]
            sample = renders.get_batch(i)
            return sample.depth[0], sample.normals[0], None

    renders = Reliefs(folder)
    found = control_maps.score_maps(Exact(), renders, torch.arange(3))
    assert found["depth_error"] < 1e-3 and max(found.values()) < 2


def test_a_missed_gate_is_named(capsys):
    control_maps.print_values({"depth_error": 0.5, "seconds": 0.3, "megabytes": 1.0}, {"depth_error": 0.6})
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["MISSED", "passed", "reached"]
    assert "0.600" in lines[0]


def test_bad_arguments_are_refused(capsys):
    with pytest.raises(SystemExit):
        control_maps.main(["--count", "0"])
    assert "at least 1" in capsys.readouterr().err
