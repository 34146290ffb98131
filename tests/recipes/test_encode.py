"""Label maps and prompts of one's own, encoded for the sheets of a run."""
import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import swap_sides, to_image
from mditface.mdit.recipes.encode import Encoder, encode_sheet
from mditface.mdit.training.data import choose_view
from mditface.tests.adapter import bases


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


class Clip:
    """A caption's tokens are its letters."""

    def tokenize(self, caption):
        return torch.tensor(list(caption.encode()), dtype=torch.float32)[:, None]

    def encode_from_tokens(self, tokens, return_pooled):
        return tokens[None], tokens[:1]


def read_caption(view):
    assert view["pooled"][0] == view["context"][0, 0]
    return bytes(view["context"][:, 0].byte().tolist()).decode()


def test_all_captions_and_mirrored_samples():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 19, (32, 48), generator=rng, dtype=torch.uint8)
    sample = {"image": torch.randint(0, 256, (3, 32, 48), generator=rng, dtype=torch.uint8), "labels": labels,
              "captions": ["one", "two", "another"]}
    encoded = Encoder(bases.VAE, Clip(), mirror=True)(sample)
    views = [choose_view(encoded, rng, mirror=0.5) for _ in range(40)]
    assert {read_caption(view) for view in views} == set(sample["captions"])
    mirrored = [view for view in views if not torch.equal(view["labels"], labels)]
    assert 10 < len(mirrored) < 30
    expected = swap_sides(labels.flip(-1))
    for view in mirrored:
        assert torch.equal(view["labels"], expected)
        assert torch.equal(view["mask_latent"], bases.VAE.encode(to_image(expected[None]))[0])
        torch.testing.assert_close(view["latent"], encoded["latent"].flip(-1))
    plain = [view for view in views if torch.equal(view["labels"], labels)]
    assert all(torch.equal(view[name], encoded[name]) for view in plain for name in ("latent", "mask_latent"))


def test_a_sample_without_a_choice_draws_nothing():
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    choose_view({"context": torch.zeros(1, 2), "latent": torch.zeros(1)}, rng)
    assert torch.equal(rng.get_state(), before)
