"""devtools.help_pictures refuses a graph that it cannot draw with one sentence and exit code 2."""
import json

import pytest
from PIL import Image

from devtools import help_pictures


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(help_pictures, "DOCS", tmp_path)
    (tmp_path / "api.json").write_text('{"1": {"class_type": "EmptyImage", "inputs": {}}}')
    (tmp_path / "text.json").write_text("no graph")
    Image.new("RGB", (2, 2)).save(tmp_path / "MDiT_Bare.png")
    return tmp_path


@pytest.mark.parametrize("argument, reason", [
    ("MDiT_X={}/none.json", "{}/none.json does not exist"),
    ("MDiT_X={}/api.json", "{}/api.json is in API form: save it with Workflow > Export"),
    ("MDiT_X={}/text.json", "{}/text.json is not a graph: save one with Workflow > Export"),
    ("MDiT_X", "MDiT_X has no picture yet: give MDiT_X=GRAPH.json"),
    ("MDiT_Bare", "the picture of MDiT_Bare holds no graph: give MDiT_Bare=GRAPH.json"),
])
def test_a_graph_that_cannot_be_drawn(files, capsys, argument, reason):
    assert help_pictures.main([argument.format(files)]) == 2
    assert capsys.readouterr().err == f"help_pictures: {reason.format(files)}\n"


def test_graphs_of_pictures_and_files(files, monkeypatch):
    drawn = {}
    monkeypatch.setattr(help_pictures, "draw_pictures", drawn.update)
    old, new = {"nodes": []}, {"nodes": [{"id": 1}]}
    help_pictures.save_picture(Image.new("RGB", (2, 2)), old, files / "MDiT_Old.png")
    (files / "new.json").write_text(json.dumps(new))
    assert help_pictures.main(["MDiT_Old", f"MDiT_New={files / 'new.json'}"]) == 0
    assert drawn == {"MDiT_Old": old, "MDiT_New": new}
