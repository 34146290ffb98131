"""What graphs and texts say of the bundled files follows from the files."""
import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from devtools import bundled, renew
from devtools.node_info import read_pack
from devtools.saved_graphs import FOLDERS, list_files, read_graph
from mditface.mdit.mditface.config import MDiTConfig
from mditface.mdit.parsing import ParserConfig

STATED = {figure.file for figure in bundled.FIGURES}


@pytest.fixture
def copy(root, tmp_path):
    """The pack's graphs, and the texts with figures."""
    for folder in FOLDERS:
        shutil.copytree(root / folder, tmp_path / folder)
    for file in STATED:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, tmp_path / file)
    return tmp_path


@pytest.fixture
def other_files(tmp_path, monkeypatch):
    """A model that draws 96 px and a judge that reads 64 px."""
    config = MDiTConfig(8, 1, 1, 16, 3, 8, 8, resolution=96)
    model, judge = tmp_path / bundled.MODEL.name, tmp_path / bundled.JUDGE.name
    save_file({"weight": torch.zeros(2_300_000, dtype=torch.half)}, model, config.to_metadata())
    save_file({"weight": torch.zeros(1_000_000, dtype=torch.half)}, judge, ParserConfig(64, (8, 8)).to_metadata())
    monkeypatch.setattr(bundled, "MODEL", model)
    monkeypatch.setattr(bundled, "JUDGE", judge)


def list_outdated(root, copy) -> list[str]:
    files = [path.relative_to(copy) for path in list_files(copy)] + sorted(STATED)
    return [str(file) for file in files if (copy / file).read_bytes() != (root / file).read_bytes()]


def test_nothing_is_outdated(root, copy):
    bundled.update_graphs(read_pack(), copy)
    assert bundled.update_texts(copy) == []
    assert list_outdated(root, copy) == [], "python dev.py renew writes them"


def test_another_file_changes_every_graph_that_draws_with_it(root, copy, other_files):
    bundled.update_graphs(read_pack(), copy)
    for file in list_files(copy):
        before = read_graph(root / file.relative_to(copy))
        text = json.dumps(before)
        draws = bundled.MODEL.name in text and f'"{bundled.EMPTY_LATENT}"' in text
        assert (read_graph(file) != before) == draws, file.name
        sizes = [node["widgets_values"] for part in bundled.list_parts(read_graph(file)) for node in part["nodes"]
                 if node["type"] == bundled.EMPTY_LATENT]
        assert not draws or [96, 96] in [values[:2] for values in sizes]


def test_guidance_follows_the_nodes_defaults(copy):
    info = read_pack()
    info["MDiT_Sampler"]["input"]["required"]["cfg"][1]["default"] = 1.25
    bundled.update_graphs(info, copy)
    (face,) = (copy / "subgraphs").glob("Label Map to Face (MDiTFace).json")
    (inside,) = read_graph(face)["definitions"]["subgraphs"]
    (sampler,) = (node for node in inside["nodes"] if node["type"] == "MDiT_Sampler")
    assert sampler["widgets_values"][2:5] == [20, 1.25, 2]
    other = copy / "example_workflows" / "6 FLUX, label map (EasyControl).json"
    assert read_graph(other) == read_graph(renew.ROOT / other.relative_to(copy))


def test_texts_take_the_figures_of_other_files(copy, other_files):
    assert bundled.update_texts(copy) == []
    card = (copy / "docs" / "model-card.md").read_text()
    assert "| Image size | 96 px | 64 px |" in card
    assert "| Size | 2.3 M parameters, float16, 4.6 MB | 1.0 M parameters, float16, 2.0 MB |" in card
    assert "the bundled model, 96 px" in (copy / "README.md").read_text()
    assert "64 x 64 pixels" in (copy / "web" / "docs" / "MDiT_LoadFaceParser.md").read_text()


def test_a_text_without_its_figure_is_named(copy):
    page = copy / "README.md"
    page.write_text(page.read_text().replace("the bundled model, ", "our model, "))
    (line,) = bundled.update_texts(copy)
    assert line.startswith("README.md does not tell the size")
