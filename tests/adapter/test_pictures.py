"""Pictures without classes as masks (docs/design/adapters.md, section 5.6)."""
import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import PALETTE, to_image
from mditface.mdit.mditface import host
from mditface.mdit.mditface.adapter.reader import apply_adapter
from mditface.mdit.mditface.mask import BoundMask, MaskReference
from mditface.mdit.mditface.pictures import PictureInput
from mditface.mdit.mditface.placements import ON_IMAGE, PLACEMENTS, fit_picture
from mditface.nodes.conditioning import EncodePicture
from mditface.tests.adapter import bases
from mditface.tests.adapter.bases import CONDITION, VAE, mask, noisy, prediction, run
from mditface.tests.adapter.reference import predict
from mditface.tests.mditface import runs, tiny
from mditface.tests.mditface.runs import OFF, TOLERANCE, masked

SUBJECT = "EasyControl subject, 64 rows down"
ROUNDING = dict(rtol=0, atol=1e-5)


def draw(batch: int = 1, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def picture(placement: str = ON_IMAGE, **drawn) -> PictureInput:
    return EncodePicture.execute(draw(**drawn), VAE, placement)[0]


@pytest.fixture
def easycontrol(cases):
    return cases["easycontrol"]


def test_a_painted_label_map_reads_like_the_label_map(case, texts):
    labels = mask()
    size = case.condition or bases.SIDE
    painted = PictureInput(to_image(labels.resize_labels(size, size), PALETTE), vae=VAE)
    torch.testing.assert_close(prediction(case.model, masked(texts[0], painted), x=noisy()),
                               prediction(case.model, masked(texts[0], labels), x=noisy()), **TOLERANCE)


@pytest.mark.parametrize("placement", [ON_IMAGE, SUBJECT])
@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_it_is_the_attention_of_three_streams(easycontrol, texts, placement, size):
    read, x = picture(placement), noisy(1, *size)
    torch.testing.assert_close(prediction(easycontrol.model, masked(texts[0], read), x=x),
                               predict(x, texts[0], (easycontrol, read)), **ROUNDING)


@pytest.mark.parametrize("placement", [ON_IMAGE, SUBJECT])
def test_cached_and_uncached_agree(easycontrol, texts, placement):
    read = picture(placement)
    positive = masked(texts[0], read)
    expected, _ = run(easycontrol.model, positive, texts[1], OFF, steps=3)
    for seed, passes in ((0, 1), (0, 0)):
        out, report = run(easycontrol.model, positive, texts[1], steps=3, seed=seed)
        assert report.passes == passes
        torch.testing.assert_close(out, expected, **TOLERANCE)
    assert run(easycontrol.model, positive, texts[1], steps=3, seed=5)[1].passes == 0
    assert (expected - run(easycontrol.model, *texts, steps=3)[0]).std() > 0.05 * expected.std()


def test_another_picture_or_placement_is_never_stale(easycontrol, texts):
    one = picture()
    changed = PictureInput(one.pictures / 255, vae=VAE)
    changed.pictures[0, :8, :8] = 0
    outs = []
    for read in (one, changed, picture(SUBJECT)):
        outs.append(run(easycontrol.model, masked(texts[0], read), texts[1])[0])
        read.store = one.store  # as if all were kept in one place
        again, report = run(easycontrol.model, masked(texts[0], read), texts[1])
        assert report.passes == (read is not one)
        torch.testing.assert_close(again, outs[-1], **TOLERANCE)
    assert not any(torch.allclose(outs[0], out, atol=1e-3) for out in outs[1:])


def test_right_and_left_of_the_image_are_two_entries(easycontrol, texts):
    """Both crop the picture alike, so their tokens differ in nothing but positions."""
    right, left = (picture(name) for name in PLACEMENTS if name.startswith("OminiControl"))
    left.store = right.store  # as if both were kept in one place
    outs = []
    for read in (right, left):
        expected, _ = run(easycontrol.model, masked(texts[0], read), texts[1], OFF)
        out, report = run(easycontrol.model, masked(texts[0], read), texts[1])
        assert report.passes == 1
        torch.testing.assert_close(out, expected, **TOLERANCE)
        outs.append(out)
    assert not torch.allclose(*outs, atol=1e-3)


def test_each_latent_of_a_batch_has_its_picture(easycontrol, texts):
    read, x = picture(batch=2), noisy(2)
    out = prediction(easycontrol.model, masked(texts[0], read), x=x)
    for i in range(2):
        alone = PictureInput(read.pictures[i:i + 1] / 255, vae=VAE)
        torch.testing.assert_close(out[i:i + 1], prediction(easycontrol.model, masked(texts[0], alone), x=x[i:i + 1]),
                                   **ROUNDING)
    with pytest.raises(ValueError, match="3 latents, but the mask has 2 pictures: use one picture, or one for each"):
        run(easycontrol.model, masked(texts[0], read), texts[1], latent=(3, 16, 8, 8))


def bind(case, read: PictureInput, latents: torch.Size, side: int = CONDITION) -> BoundMask:
    model = apply_adapter(case.base, case.adapter, condition=side)
    (wrapped,) = next(iter(model.wrappers.values())).values()
    reader = wrapped[0].__self__
    return BoundMask(MaskReference(read), latents, case.base.model, reader.get_layout(case.base.model))


@pytest.mark.parametrize("area", [None, (4, 6, 2, 6)])
def test_a_subject_stands_below_the_image(easycontrol, area):
    tokens, _ = bind(easycontrol, picture(SUBJECT), torch.Size((1, 16, 8, 12))).get_tokens(area)
    assert (tokens.rows.tolist(), tokens.cols.tolist()) == ([64, 65, 66], [0, 1, 2])


def test_a_subject_has_a_size_of_its_own_where_the_adapter_has_none(easycontrol):
    tokens, _ = bind(easycontrol, picture(SUBJECT), torch.Size((1, 16, 8, 8)), 0).get_tokens(None)
    assert (tokens.grid, tokens.rows[0]) == ((32, 32), 64)


def test_nothing_of_a_picture_is_merged(easycontrol):
    tokens, _ = bind(easycontrol, PictureInput(torch.zeros(1, 64, 64, 3), vae=VAE), torch.Size((1, 16, 8, 8))
                     ).get_tokens(None)
    assert (tokens.classes == -1).all()


@pytest.mark.parametrize("width, height, box", [(80, 40, (0, 16, 64, 48)), (40, 80, (16, 0, 48, 64)),
                                                (50, 40, (0, 8, 64, 56)), (400, 4, (0, 24, 64, 40))])
def test_a_subject_is_framed_in_grey(width, height, box):
    white = np.full((height, width, 3), 255, np.uint8)
    expected = np.full((64, 64, 3), 0.5, np.float32)
    left, top, right, bottom = box
    expected[top:bottom, left:right] = 1
    assert (fit_picture(white, SUBJECT, 64, 64) == expected).all()


def test_a_picture_on_the_image_is_stretched():
    pixels = (draw(height=40, width=30)[0] * 255).byte().numpy()
    expected = Image.fromarray(pixels).resize((16, 64), Image.Resampling.LANCZOS)
    assert (fit_picture(pixels, ON_IMAGE, 64, 16) * 255 == np.asarray(expected)).all()


def test_the_report_tells_what_was_stretched(easycontrol, texts):
    for placement, told in ((ON_IMAGE, True), (SUBJECT, False)):
        _, report = run(easycontrol.model, masked(texts[0], picture(placement, width=32)), texts[1])
        assert ("picture 32 x 64 resized to 64 x 64 by Lanczos filter" in str(report)) == told


def test_copies_are_the_same_and_pickles_leave_the_cache_behind():
    read = picture(SUBJECT)
    assert copy.deepcopy(read) is read
    loaded = pickle.loads(pickle.dumps(read))
    assert torch.equal(loaded.pictures, read.pictures)
    assert (loaded.placement, loaded.vae) == (SUBJECT, None)


def test_alpha_is_left_out():
    read = EncodePicture.execute(torch.rand(1, 8, 8, 4), VAE)[0]
    assert read.pictures.shape == (1, 8, 8, 3)


# Refusals


@pytest.mark.parametrize("tokenizer", ["class_embed", "vae_palette"])
def test_a_stand_alone_model_reads_label_maps_alone(tmp_path, tokenizer):
    loaded = host.load_mdit(tiny.write(tmp_path / "tiny.safetensors", tiny.config(mask_tokenizer=tokenizer)))
    positive, negative = (tiny.conditioning(loaded.clip, text) for text in ("woman", ""))
    with pytest.raises(ValueError, match=r"'Picture to Mask \(MDiT\)' is a picture without classes: connect 'Label"):
        runs.run(loaded.model, masked(positive, picture()), negative)


def test_readers_of_classes_are_refused():
    with pytest.raises(ValueError, match="mask: this model reads classes"):
        picture().labels


@pytest.mark.parametrize("family, changes", [("sd3", {}), ("flux", dict(window=1, text_reads_mask=False))])
def test_no_subject_where_tokens_cannot_stand_beside_the_image(cases, texts, tmp_path, family, changes):
    case = bases.case(family, cases[family].base, tmp_path, **changes)
    run(case.model, masked(texts[0], picture()), texts[1])
    with pytest.raises(ValueError, match=f"placement: '{SUBJECT}' .* choose 'on the image'"):
        run(case.model, masked(texts[0], picture(SUBJECT)), texts[1])


def test_a_picture_of_another_vae(easycontrol, texts):
    class Other(bases.AveragingVAE):
        def encode(self, pictures):
            return super().encode(pictures)[:, :4]

    read = EncodePicture.execute(draw(), Other())[0]
    with pytest.raises(ValueError, match=r"vae: the one at 'Picture to Mask \(MDiT\)' makes latents"):
        run(easycontrol.model, masked(texts[0], read), texts[1])


def test_every_placement_is_one_of_the_node():
    (choice,) = (one for one in EncodePicture.define_schema().inputs if one.id == "placement")
    assert list(choice.options) == list(PLACEMENTS)
