"""Label maps and prompts of one's own, encoded for the sheets of a run."""
import numpy as np
import pytest
from PIL import Image

from mditface.mdit.recipes.encode import encode_sheet


def test_own_label_maps_and_prompts(tmp_path):
    with pytest.raises(FileNotFoundError, match="sheet: no label map NAME.png"):
        encode_sheet(tmp_path, 40, dict)
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(16, 0).repeat(16, 1)  # (48, 64)
    Image.fromarray(labels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="sheet: .*a.txt is missing: write the prompt of a.png into it"):
        encode_sheet(tmp_path, 40, dict)
    (tmp_path / "a.txt").write_text("an old man\n")
    sample, = encode_sheet(tmp_path, 40, dict)
    assert sample["captions"] == ["an old man"] and sample["image"].shape == (3, 32, 32)
    assert sample["labels"].shape == (32, 32) and set(sample["labels"].unique().tolist()) <= set(range(12))
