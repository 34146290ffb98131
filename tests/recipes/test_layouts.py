"""The table of docs/training/trainer.md says which target reads which layout of data."""
import numpy as np
import pytest

from mditface.mdit.datasets.mapped import MappedRenders
from mditface.mdit.datasets.reliefs import Reliefs
from mditface.mdit.recipes.encode import encode_folder
from mditface.mdit.recipes.targets.kinds import TARGETS, AdapterSettings
from mditface.tests.datasets.test_datasets import write_celeba, write_pairs
from mditface.tests.recipes.tiny_targets import target_of
from mditface.tests.training.tiny_targets import ADAPTER, run_paths

pytestmark = pytest.mark.usefixtures("in_training")


def encode(paths):
    return encode_folder(paths["data"], AdapterSettings(**ADAPTER | {"size": 32}, **paths), take_labels, {})


def take_labels(sample):
    return {"labels": sample["labels"]}


READERS = {"adapter": encode, "sd3": encode, "polish": lambda paths: MappedRenders(paths["data"]),
           "relief": lambda paths: Reliefs(paths["data"]),
           "dynast": lambda paths: target_of("dynast", paths | {"heldout": None}, batch=2),
           **{name: lambda paths, name=name: target_of(name, paths, batch=2)
              for name in ("demo", "judge", "autoencoder")}}


@pytest.fixture
def folders(tmp_path, shards):
    """A small set in each layout, by the table's columns."""
    write_pairs(tmp_path / "pairs", side=64)
    write_celeba(tmp_path / "parts")
    pytest.importorskip("webdataset")
    from mditface.mdit.datasets.pack import pack
    pack(tmp_path / "pairs", tmp_path / "tars", 2)
    return {"MM-CelebA-HQ": tmp_path / "pairs", "CelebAMask-HQ": tmp_path / "parts", "renders": shards,
            "tar shards": tmp_path / "tars"}


def split_row(line):
    return [cell.strip(" `") for cell in line.strip("|\n").split("|")]


def read_table(root):
    """What the table says: the cells of each target, by layout."""
    lines = (root / "docs" / "training" / "trainer.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| Target |"))
    layouts = split_row(lines[start])[1:]
    table = {}
    for line in lines[start + 2:lines.index("", start)]:
        name, *cells = split_row(line)
        table[name] = dict(zip(layouts, cells))
    return table


def test_every_target_reads_what_the_table_says(root, folders, tmp_path):
    table = read_table(root)
    assert table.keys() == TARGETS.keys() == READERS.keys()
    for target, layouts in table.items():
        for layout, cell in layouts.items():
            paths = run_paths(tmp_path / target / layout, data=folders[layout])
            if cell == "with `--relief":
                with pytest.raises(ValueError, match="lacks depth, normal"):
                    READERS[target](paths)
                add_relief(folders[layout])
            if cell == "no":
                with pytest.raises((ValueError, FileNotFoundError), match="data: .*(only the renderer's|tar shards)"):
                    READERS[target](paths)
            else:
                READERS[target](paths)


def add_relief(folder):
    file = folder / "00000.npz"
    with np.load(file) as arrays:
        shape = arrays["label"].shape
        relief = {"depth": np.zeros(shape, np.float16), "normal": np.zeros((*shape, 3), np.float16)}
        np.savez(file, **arrays, **relief)
