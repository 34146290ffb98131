"""Phrases and slots, and the preview of a layout."""
from types import SimpleNamespace

import pytest
import torch
from PIL import ImageFont
from transformers import CLIPTextConfig, CLIPTextModel

from mditface.mdit.interactdiffusion.draw import COLORS, draw_layout
from mditface.mdit.interactdiffusion.encode import WHOLE_IMAGE, encode_interactions, make_empty_interactions
from mditface.mdit.shared import fonts
from mditface.nodes import interactdiffusion as nodes
from mditface.tests.interactdiffusion import tiny


def published_feature(phrase):
    """The pooled feature of the transformers library, on the same weights."""
    weights = {name.removeprefix("clip_l.transformer."): weight
               for name, weight in tiny.random_weights(tiny.clip().cond_stage_model).items()}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=49408, hidden_act="quick_gelu", eos_token_id=49407,
                                         **tiny.TEXT_ENCODER))
    known = {name: weights[name if name in weights else f"text_model.{name}"] for name in model.state_dict()}
    model.load_state_dict(known)
    tokens = [token for token, _ in tiny.clip().tokenize(phrase)["l"][0]]
    return model.eval()(torch.tensor([tokens])).pooler_output[0]


def test_features_are_the_end_of_text_token_after_the_last_norm():
    found = tiny.encoded(tiny.FEEDING).features[:, 0]
    for row, phrase in zip(found, tiny.FEEDING[:3]):
        torch.testing.assert_close(row, published_feature(phrase), rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


def test_clip_skip_changes_nothing():
    skipping = tiny.clip().clone()
    skipping.clip_layer(-2)
    found = encode_interactions(skipping, [tiny.FEEDING])
    torch.testing.assert_close(found.features, tiny.encoded(tiny.FEEDING).features)


def test_slots():
    given = tiny.encoded(tiny.FEEDING, tiny.HOLDING).to_grounding(tiny.SIZES)
    assert given.used.tolist() == [[1.0] * 2 + [0.0] * 28]
    torch.testing.assert_close(given.subject_boxes[0, :3], torch.tensor([*(one.subject_box for one in (
        tiny.FEEDING, tiny.HOLDING)), (0.0,) * 4]))
    assert given.subject.shape == given.action.shape == given.object.shape == (1, 30, tiny.FEATURE)


def test_crop():
    given = tiny.encoded(tiny.FEEDING, tiny.HOLDING)
    assert given.crop_to(WHOLE_IMAGE) is given
    right = given.crop_to((0.5, 0.0, 1.0, 0.5))
    assert [one.subject for one in right.interactions] == ["man"]
    torch.testing.assert_close(torch.tensor(right.interactions[0].subject_box), torch.tensor((0.0, 0.2, 0.9, 1.0)))
    assert torch.equal(right.features, given.features[:, 1:])
    assert given.crop_to((0.0, 0.9, 0.1, 1.0)).interactions == ()
    none = make_empty_interactions(tiny.SIZES).crop_to((0.5, 0.0, 1.0, 1.0))  # as the host does
    assert none.interactions == () and none.features.shape == (3, 0, tiny.SIZES.feature)


@pytest.mark.parametrize("clip, interactions, message", [
    (None, [tiny.FEEDING], "clip: the loaded file has no text encoder"), (None, [], "interactions: there are none")])
def test_nothing_to_encode(clip, interactions, message):
    with pytest.raises(ValueError, match=message):
        encode_interactions(clip, interactions)


def test_preview():
    images = torch.full((2, 96, 128, 3), 0.5)
    drawn = draw_layout(images, [tiny.FEEDING._replace(subject="", action="", object="")])
    assert drawn.shape == images.shape
    changed = (drawn[0] - 0.5).abs().amax(dim=-1) > 0.2
    rows, columns = changed.nonzero().amin(dim=0), changed.nonzero().amax(dim=0)
    assert [*rows, *columns] == pytest.approx([19, 6, 76, 90], abs=1)  # the corners of the two boxes together
    edge = drawn[0, 40, 6]
    torch.testing.assert_close(edge, torch.tensor(COLORS[0]) / 255, rtol=0, atol=0.1)
    inside = drawn[0, 60, 40]  # the action's box
    assert inside[0] > 0.55 > inside[1]
    assert torch.equal(draw_layout(images, []), images)
    assert not torch.equal(draw_layout(images, [tiny.FEEDING]), drawn)


@pytest.mark.parametrize("phrase", [
    "b\u00e9b\u00e9", "be\u0301be\u0301", "stra\u00dfe", "\u03ba\u03cc\u03c3\u03bc\u03bf\u03c2",
    "\u043a\u043e\u0448\u043a\u0430", "\u5c0f\u732b", "\u306d\u3053",
    "\uace0\uc591\uc774", "baby, \u5c0f\u732b"])
def test_letters_of_many_scripts_are_drawn(phrase):
    """Each letter has a shape of its own, in the phrase's font; a square would be that of a letter of no font."""
    text = fonts.compose(phrase)
    assert fonts.find_missing([phrase]) == []
    font = fonts.choose_font(text, 40)
    square = bytes(font.getmask(fonts.UNASSIGNED))
    shapes = {letter: bytes(font.getmask(letter)) for letter in text if letter != " "}
    assert len(set(shapes.values())) == len(shapes) and square not in shapes.values()
    image = torch.zeros(1, 128, 128, 3)
    blank, drawn = (draw_layout(image, [tiny.FEEDING._replace(subject=word)]) for word in ("", phrase))
    assert (drawn - blank).abs().max() > 0.5


def test_plain_letters_keep_their_font():
    assert fonts.choose_font("feeding", 20).getname() == ImageFont.load_default(20).getname()


def test_signs_without_a_shape_are_not_drawn():
    assert fonts.find_missing(["\u200fcat\u2060"]) == [] and fonts.compose("\u200fcat\u2060") == "cat"


def test_letters_without_a_font_are_said_once(monkeypatch, caplog):
    monkeypatch.setattr(nodes.ui, "PreviewImage", lambda image, cls: SimpleNamespace(as_dict=dict))
    unknown = "\U00012000"  # cuneiform
    strange = tiny.FEEDING._replace(subject=2 * unknown, action=f"a {unknown}")
    assert fonts.find_missing(strange[:3]) == [unknown]
    with caplog.at_level("INFO"):
        output = nodes.PreviewInteractions.execute([strange])
    report, = output.ui["text"]
    assert f"no font of this machine has the letters {unknown}, so the image shows squares" in report
    assert caplog.text.count(unknown) == 1
    assert nodes.PreviewInteractions.execute([tiny.FEEDING]).ui == {}
