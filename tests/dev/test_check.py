"""dev.py check gives the loaders of the packed archive all the files that its graphs name."""
import json
import shutil

import pytest

from devtools import check


class Listed:
    """Stands in for a server: records the names of the models that are put into its folders."""

    def __init__(self):
        self.models = set()

    def touch_model(self, name: str) -> None:
        self.models.add(name)


@pytest.fixture
def archive(root, tmp_path):
    """A check whose archive holds the pack's graphs and bundled models."""
    made = check.Check(tmp_path)
    shutil.copytree(root / "example_workflows", made.pack / "example_workflows")
    weights = made.pack / "mdit" / "mditface" / "weights"
    weights.mkdir(parents=True)
    (weights / "mditface-demo.safetensors").touch()
    (made.base / "input").mkdir()
    return made


def test_every_named_file_is_placed(archive):
    server = Listed()
    archive.place_files(server)
    assert {"your_qihoo_t2x.pt", "SDM/pytorch_model.bin", "seg.safetensors", "clip_l.safetensors"} <= server.models
    assert "mditface-demo.safetensors" not in server.models
    placed = {path.name: path.is_dir() for path in (archive.base / "input").iterdir()}
    assert placed["photo.png"] is False and placed["label_maps"] is True


def test_every_linked_model_is_placed(archive):
    """The templates link to the models that the graphs name."""
    server = Listed()
    archive.place_files(server)
    for file in (archive.pack / "example_workflows").glob("*.json"):
        for node in json.loads(file.read_text("utf-8"))["nodes"]:
            assert {model["name"] for model in node["properties"].get("models", ())} <= server.models
