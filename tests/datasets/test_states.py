"""The state of a sample: another one once a file of it has changed."""
import numpy as np

from mditface.mdit.datasets import open_dataset
from mditface.mdit.labelmap import CLASSES
from mditface.tests.datasets.test_datasets import (
    RNG, as_colours, as_grey, label_map, write_celeba, write_pairs, write_renders)


def list_changed(folder, change):
    """The numbers of the samples whose state a change of the folder changes."""
    before, after = [], []
    for states in (before, after):
        faces = open_dataset(folder)
        states += [faces.describe_state(i) for i in range(len(faces))]
        if not after:
            change()
    return [i for i, pair in enumerate(zip(before, after)) if pair[0] != pair[1]]


def test_a_changed_sample_has_another_state(tmp_path):
    pairs = tmp_path / "pairs"
    write_pairs(pairs)
    assert list_changed(pairs, lambda: None) == []
    assert list_changed(pairs, lambda: (pairs / "text" / "1.txt").write_text("face 9\n\n  another caption  \n")) == [1]
    assert list_changed(pairs, lambda: as_grey(label_map(RNG)).save(pairs / "mask" / "2.png")) == [2]
    assert list_changed(pairs, lambda: as_colours(label_map(RNG)).save(pairs / "face" / "3.png")) == [3]
    order = "\n".join(reversed(CLASSES))
    assert list_changed(pairs, lambda: (pairs / "classes.txt").write_text(order)) == [0, 1, 2, 3]
    write_celeba(tmp_path)
    part = tmp_path / "CelebAMask-HQ-mask-anno" / "5" / "00010_cloth.png"
    assert list_changed(tmp_path, lambda: part.write_bytes(part.read_bytes())) == [1]
    folder = tmp_path / "renders"
    write_renders(folder, (3,))
    kept = dict(np.load(folder / "00000.npz"))
    kept["caption"][1] = "a word"
    assert list_changed(folder, lambda: np.savez(folder / "00000.npz", **kept)) == [1]
