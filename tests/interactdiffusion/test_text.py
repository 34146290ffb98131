"""Interactions written as text, and boxes from pixels and from the host."""
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mditface.mdit.interactdiffusion.interactions import Interaction, read_host_boxes, to_box
from mditface.mdit.interactdiffusion.text import FIELDS, parse_interactions, parse_numbers
from mditface.tests.interactdiffusion.tiny import FEEDING, HOLDING

WRITTEN = ("person [0.05, 0.2, 0.35, 0.75] = feeding = cat [0.3 0.45 0.7 0.8];\n"
           "man[0.5,0.1,0.95,0.9]=holding=hair drier [0.55, 0.2, 0.7, 0.35];")
phrases = st.text("aZ9 '\"{}(),.:\u00e9\u4eba", max_size=8).map(lambda phrase: f"x{phrase}".strip())
sides = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(sorted)
boxes = st.tuples(sides, sides).map(lambda xy: tuple(side / 1000 for pair in zip(*xy) for side in pair))
interactions = st.builds(Interaction, phrases, phrases, phrases, boxes, boxes)


def as_line(one: Interaction) -> str:
    subject_box, object_box = (", ".join(map(repr, box)) for box in one[3:])
    return f"{one.subject} [{subject_box}] = {one.action} = {one.object} [{object_box}]"


def as_json(one: Interaction) -> dict:
    return dict(zip(FIELDS, one))


def test_lines():
    assert parse_interactions(WRITTEN) == (FEEDING, HOLDING)


@given(st.lists(interactions, max_size=4), st.sampled_from([";", "\n", " ; \n\n"]))
def test_lines_come_back(given, between):
    assert parse_interactions(between.join(map(as_line, given))) == tuple(given)


@given(st.lists(interactions, max_size=4))
def test_json_comes_back(given):
    assert parse_interactions(json.dumps([as_json(one) for one in given])) == tuple(given)


@given(st.text(max_size=40) | st.text("[]=;, .0123abc\n{}\"", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        found = parse_interactions(text)
    except ValueError as error:
        assert str(error).startswith(("text: ", "boxes: "))
    else:
        for one in found:
            for x0, y0, x1, y1 in one[3:]:
                assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_one_json_object_and_phrases_with_brackets():
    one = FEEDING._replace(subject="a [very] tall person; = walking")
    assert parse_interactions(json.dumps(as_json(one))) == (one,)


PLAIN = "person [0.05, 0.2, 0.35, 0.75] = feeding = cat [0.3, 0.45, 0.7, 0.8]"


@pytest.mark.parametrize("text", [
    PLAIN.replace("=", "\uff1d"), PLAIN.replace(", ", "\uff0c"), PLAIN.replace(", ", "\u3001"),
    PLAIN.replace("[", "\uff3b").replace("]", "\uff3d"), PLAIN.replace("[", "\u3010").replace("]", "\u3011"),
    PLAIN.replace("0.05", "\uff10\uff0e\uff10\uff15"), PLAIN + "\uff1b", PLAIN + "\u061b", f"\ufeff{PLAIN}\r\n",
    PLAIN.replace("person", '"person"').replace("cat", "'cat'"), f'"{PLAIN}"',
    PLAIN.replace("person", "\u2067person\u2069").replace("0.05", "\u200e0.05"),
    PLAIN.replace("person", "\u201cperson\u201d").replace("feeding", "\u300cfeeding\u300d"),
    f"```\n{PLAIN}\n```", f"Here it is:\n```text\n{PLAIN}\n```\nDone."])
def test_separators_of_other_scripts_quotes_and_code_blocks(text):
    assert parse_interactions(text) == (FEEDING,)


@pytest.mark.parametrize("between", [";", "\uff1b", "\u061b", "\r\n", "\r", "\u2028"])
def test_separators_between_interactions(between):
    assert parse_interactions(between.join([PLAIN, as_line(HOLDING)])) == (FEEDING, HOLDING)


@pytest.mark.parametrize("phrase", [
    "person's dog", "the \"old\" man", "'a' and 'b'", "\u4eba\uff0c\u72d7", "caf\u00e9, \ufb01ne", "x'", "\u3001"])
def test_phrases_keep_their_quotes_and_commas(phrase):
    one = FEEDING._replace(subject=phrase)
    assert parse_interactions(as_line(one)) == (one,)


@pytest.mark.parametrize("form", [
    lambda one: json.dumps([{**one, "score": 0.9, "id": 3}]), lambda one: f"```json\n{json.dumps([one])}\n```",
    lambda one: f"Sure!\n```\n{json.dumps(one)}```", lambda one: json.dumps({"interactions": [one]}),
    lambda one: json.dumps([one]).replace('"', "\u201c").replace(", ", "\uff0c").replace(": ", "\uff1a"),
    lambda one: "\ufeff" + json.dumps([one])])
def test_json_as_models_and_keyboards_write_it(form):
    assert parse_interactions(form(as_json(FEEDING))) == (FEEDING,)


def test_json_without_boxes_takes_connected_ones():
    item = {**dict.fromkeys(FIELDS), "subject": "person", "action": "feeding", "object": "cat", "score": 1}
    assert parse_interactions(json.dumps([item]), boxes=[FEEDING.subject_box, FEEDING.object_box]) == (FEEDING,)
    with pytest.raises(ValueError, match="must be a JSON object"):
        parse_interactions(json.dumps([{**item, "subject_box": [0, 0, 1, 1]}]))


@pytest.mark.parametrize("text", ["[0.1, 0.2, 0.3, 0.4]", "0.1\uff0c0.2\uff0c0.3\uff0c0.4", "(0.1 0.2 0.3 0.4)"])
def test_typed_boxes_have_several_forms(text):
    assert parse_numbers(text, "subject_box:") == [0.1, 0.2, 0.3, 0.4]


def test_boxes_from_elsewhere_in_turn():
    taken = [FEEDING.subject_box, FEEDING.object_box, HOLDING.subject_box, HOLDING.object_box]
    assert parse_interactions("person=feeding=cat;man=holding=hair drier", boxes=taken) == (FEEDING, HOLDING)
    mixed = "person = feeding = cat\n" + as_line(HOLDING)
    assert parse_interactions(mixed, boxes=taken[:2]) == (FEEDING, HOLDING)
    for some in ([], taken[:1], taken[:3]):
        with pytest.raises(ValueError, match=f"boxes: {len(some)} boxes for 1 interactions"):
            parse_interactions(mixed, boxes=some)


def test_pixels():
    (found,) = parse_interactions("a [64, 0, 320, 240] = b = c [0, 0, 640, 480]", (640, 480))
    assert found[3:] == ((0.1, 0.0, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0))


@pytest.mark.parametrize("text, message", [
    ("person = feeding", "interaction 1, 'person = feeding', has 2 parts"),
    ("a = b = c = d", "has 4 parts"),
    (as_line(FEEDING) + "; x [0 0 1 1] = y = z", "interaction 2, .* has one box"),
    ("a [0 0 1 1] = b [0 0 1 1] = c [0 0 1 1]", "brackets in the wrong position"),
    ("a [0 0 1 1 = b = c [0 0 1 1]", "brackets in the wrong position"),
    ("a [0 0 x 1] = b = c [0 0 1 1]", r"the box \[0 0 x 1\], which is not made of numbers"),
    ("a [0 0 1] = b = c [0 0 1 1]", r"subject_box: \(0, 0, 1\) is not a box"),
    ("a [0 0 nan 1] = b = c [0 0 1 1]", "is not a box"),
    ("a [0 0 1 1] = b = c [0.5 0 0.5 1]", r"object_box: the box \(0.5, 0, 0.5, 1\) has no area"),
    ("a [0.9 0 0.1 1] = b = c [0 0 1 1]", "has no area: give left, top"),
    ("a [0 0 1.5 1] = b = c [0 0 1 1]", r"outside of the image \(fractions from 0 to 1\)"),
    ("[{", "begins like JSON"),
    ('[{"subject": "a"}]', "interaction 1 must be a JSON object"),
    ('{"subject": "a", "action": "b", "object": 3}', "must be a JSON object"),
    ("[1]", "must be a JSON object"),
])
def test_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_interactions(text)


def test_boxes_of_the_host():
    box = {"x": 64, "y": 0, "width": 256, "height": 240}
    for value in (box, [box], [[box]], [[box], []]):
        assert read_host_boxes(value, (640, 480), "boxes") == [(0.1, 0.0, 0.5, 0.5)]
    assert read_host_boxes(None, (640, 480), "boxes") == read_host_boxes([], (640, 480), "boxes") == []
    assert read_host_boxes([[]], (640, 480), "boxes") == []
    assert read_host_boxes({**box, "metadata": {}}, (640, 480), "boxes") == [(0.1, 0.0, 0.5, 0.5)]
    with pytest.raises(ValueError, match="boxes: .* lies outside of the image of 64 x 480 .* Set 'width'"):
        read_host_boxes([box], (64, 480), "boxes")
    with pytest.raises(ValueError, match="boxes: .* is not a box: connect boxes with the numbers x, y"):
        read_host_boxes([{"x": 1}], (64, 480), "boxes")
    with pytest.raises(ValueError, match="not finite"):
        read_host_boxes({**box, "x": math.nan}, (640, 480), "boxes")
    with pytest.raises(ValueError, match="has no area"):
        read_host_boxes({**box, "width": 0}, (640, 480), "boxes")


@pytest.mark.parametrize("x, y, width, height, expected", [
    (64, 0, 256, 240, (0.2, 0, 1, 0.5)), (-32, -48, 64, 96, (0, 0, 0.1, 0.1)), (-10, -10, 900, 900, (0, 0, 1, 1)),
    (0.25, 0.5, 0.5, 0.25, (0.25, 0.5, 0.75, 0.75)), (-0.25, 0.5, 0.5, 0.75, (0, 0.5, 0.25, 1)),
    (0, 0, 1.0, 1.0, (0, 0, 1, 1))])
def test_connected_boxes_are_cut_off_at_the_border_and_may_be_fractions(x, y, width, height, expected):
    box = {"x": x, "y": y, "width": width, "height": height}
    assert read_host_boxes(box, (320, 480), "boxes") == [pytest.approx(expected)]


@given(st.lists(st.floats(), max_size=5))
def test_a_box_lies_in_the_image(numbers):
    try:
        box = to_box(numbers, (512, 768), "box")
    except ValueError as error:
        assert str(error).startswith("box: ")
    else:
        assert all(map(math.isfinite, box)) and 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
