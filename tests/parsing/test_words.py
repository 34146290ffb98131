"""Label maps in words: the measures of heads, the sentences, and the node 'Describe Label Map'."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from mditface.mdit.labelmap import CLASSES, find_class, to_image
from mditface.mdit.parsing import LANGUAGES, describe_map, write_sentence
from mditface.mdit.parsing.heads import find_people, measure_head
from mditface.mdit.parsing.words import PHRASES, UNWORN
from mditface.nodes.preview import DescribeLabelMap

SIDE = 256
HEAD = (  # class, and its box in pixels
    ("hair", (64, 20, 192, 120)), ("neck", (100, 190, 156, 225)), ("skin", (70, 40, 186, 215)),
    ("l_brow", (140, 84, 172, 92)), ("r_brow", (84, 84, 116, 92)), ("l_eye", (144, 98, 168, 112)),
    ("r_eye", (88, 98, 112, 112)), ("nose", (116, 104, 140, 146)), ("u_lip", (104, 156, 152, 166)),
    ("l_lip", (104, 166, 152, 176)))
PARTS = {
    "hat": [("hat", (64, 0, 192, 60))], "eye_g": [("eye_g", (84, 94, 172, 116))],
    "ear_r": [("ear_r", (60, 140, 72, 156))], "neck_l": [("neck_l", (100, 210, 156, 220))],
    "mouth open": [("mouth", (110, 160, 146, 172))], "bangs": [("hair", (80, 30, 176, 90))]}


def draw(*parts, without=()):
    """Label map (SIDE, SIDE) of a head with more parts over it."""
    canvas = Image.new("L", (SIDE, SIDE))
    for name, box in [shape for shape in HEAD if shape[0] not in without] + list(parts):
        ImageDraw.Draw(canvas).ellipse(box, fill=CLASSES.index(name))
    return np.array(canvas)


def hang(labels, lowest):
    """The head with hair on both sides down to a row."""
    labels = labels.copy()
    for columns in (slice(30, 66), slice(190, 226)):
        labels[40:lowest, columns] = find_class("hair")
    return labels


def turn_head(labels, pixels):
    """The head with its features moved to the right of the picture."""
    moved = labels.copy()
    skin = find_class("skin")
    features = ~np.isin(labels, [find_class(name) for name in ("background", "skin", "hair", "neck")])
    moved[features] = skin
    y, x = np.nonzero(features)
    moved[y, x + pixels] = labels[y, x]
    return moved


def tilt_head(labels, degrees):
    """The head turned clockwise about the picture's middle."""
    return ndimage.rotate(labels, -degrees, order=0, reshape=False)


def words_of(labels):
    words, = describe_map(labels).words
    return words


@pytest.mark.parametrize("labels, said", [
    (draw(), ["short hair"]), (draw(without=["hair"]), ["no hair"]), (hang(draw(), 200), ["medium hair"]),
    (hang(draw(), 250), ["long hair"]), (draw(*PARTS["hat"], without=["hair"]), ["hat"]),
    (turn_head(draw(), 14), ["short hair", "turned right"]), (turn_head(draw(), -14), ["short hair", "turned left"]),
    (turn_head(draw(), 6), ["short hair"]), (tilt_head(draw(), 12), ["short hair", "tilted right"]),
    (tilt_head(draw(), -12), ["short hair", "tilted left"]), (tilt_head(draw(), 3), ["short hair"]),
    (tilt_head(hang(draw(), 250), 25), ["long hair", "tilted right"])])
def test_hair_and_pose(labels, said):
    assert words_of(labels) == said


@pytest.mark.parametrize("labels", [
    draw(without=["hair"])[60:], draw(without=["hair", "skin"]),
    np.concatenate([draw(without=["hair"])[60:], draw(without=["hair"])[60:]], axis=1)],
    ids=["close-up", "without skin", "two close-ups"])
def test_hair_that_the_picture_cannot_show_is_not_missed(labels):
    assert not any("no hair" in words for words in describe_map(labels).words)


def test_a_bald_head_may_touch_the_edge_of_the_picture():
    assert words_of(draw(without=["hair"])[42:]) == ["no hair"]


@pytest.mark.parametrize("word", PARTS)
def test_each_part_is_said_when_it_is_there(word):
    assert words_of(draw(*PARTS[word])) == ["short hair", word]


def test_raised_corners_are_a_smile():
    labels = draw(without=["u_lip", "l_lip"])
    for name, width in (("u_lip", 8), ("l_lip", 4)):
        canvas = Image.fromarray(labels)
        ImageDraw.Draw(canvas).arc((100, 136, 156, 172), 10, 170, fill=find_class(name), width=width)
        labels = np.array(canvas)
    assert words_of(labels) == ["short hair", "smiling"]
    assert measure_head(draw()).smile == pytest.approx(0, abs=0.005)


def test_hair_below_a_picture_that_ends_at_the_chin_counts():
    assert words_of(hang(draw(), 250)[:217]) == ["long hair"]


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(sorted(PARTS))), st.integers(-16, 16), st.integers(-20, 20), st.booleans())
def test_a_mirror_swaps_left_and_right_alone(parts, pixels, degrees, is_hanging):
    labels = turn_head(draw(*[shape for part in sorted(parts) for shape in PARTS[part]]), pixels)
    labels = tilt_head(hang(labels, 250) if is_hanging else labels, degrees)
    swapped = {"turned left": "turned right", "turned right": "turned left", "tilted left": "tilted right",
               "tilted right": "tilted left"}
    sides = np.arange(len(CLASSES))
    for left, right in (("l_eye", "r_eye"), ("l_brow", "r_brow"), ("l_ear", "r_ear")):
        sides[[find_class(left), find_class(right)]] = find_class(right), find_class(left)
    said = words_of(labels)
    mirrored = labels[:, ::-1]
    expected = [swapped.get(word, word) for word in said]
    assert words_of(sides[mirrored]) == expected
    assert words_of(mirrored) == expected  # labels of the wrong sides, as some parsers give them


@pytest.mark.parametrize("side", [16, 64, 4096])
def test_sizes(side):
    labels = np.array(Image.fromarray(hang(draw(*PARTS["hat"]), 250)).resize((side, side), Image.Resampling.NEAREST))
    assert words_of(labels) == ["long hair", "hat"]


def test_people_are_described_from_left_to_right():
    pair = np.concatenate([draw(*PARTS["eye_g"]), hang(draw(), 250)], axis=1)
    found = describe_map(pair)
    assert found.words == [["short hair", "eye_g"], ["long hair"]] and len(found.notes) == 2
    assert write_sentence(found.words, "English") == (
        "two people, from left to right: a person with short hair, glasses; a person with long hair")
    assert len(find_people(np.tile(draw(), (1, 11)))) == 11
    assert write_sentence([["hat"]] * 11, "English").startswith("11 people")


def test_parts_of_one_face_are_one_person():
    labels = draw()
    labels[148:154] = find_class("background")  # a stick before the face, between nose and mouth
    assert len(find_people(labels)) == 1
    small = Image.fromarray(draw()).resize((32, 32), Image.Resampling.NEAREST)
    labels[:32, :32] = np.array(small)
    assert len(find_people(labels)) == 1


def test_a_label_map_without_a_face_is_described_as_far_as_it_goes():
    labels = np.zeros((64, 64), np.uint8)
    labels[10:20] = find_class("hair")
    labels[:10] = find_class("hat")
    found = describe_map(labels)
    assert found.words == [["hair", "hat"]] and "there is no face" in found.notes[0]
    labels[:] = find_class("cloth")
    assert write_sentence(describe_map(labels).words, "English") == "a person"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2 ** 32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(2, 19))
def test_any_label_map_gives_a_sentence(seed, height, width, classes):
    labels = np.random.default_rng(seed).integers(1, classes, (height, width), dtype=np.uint8)
    found = describe_map(labels)
    for language in LANGUAGES:
        assert write_sentence(found.words, language).count(PHRASES[language]["person"]) == len(found.words)


def test_both_languages_have_all_words():
    assert set(PHRASES["English"]) == set(PHRASES["Chinese"]) and set(UNWORN) < set(PHRASES["English"])
    assert len(set(map(str, PHRASES["Chinese"].values()))) == len(PHRASES["Chinese"]) - 1  # "with" is a comma, too


def test_the_node_gives_one_text_for_each_map():
    batch = to_image(torch.from_numpy(np.stack([draw(), draw(*PARTS["eye_g"], *PARTS["mouth open"])])))
    texts, report = DescribeLabelMap.execute(batch, prompt=" oil painting\n").args
    assert texts == ["a person with short hair, oil painting",
                     "a person with short hair, glasses, mouth open, oil painting"]
    assert [line.split(":")[0] for line in report.split("\n")] == ["label map 1, person 1", "label map 2, person 1"]
    assert "glasses" in report and "turn +0.00" in report
    assert DescribeLabelMap.execute(batch[:1], "Chinese").args[0] == ["\u4e00\u4e2a\u4eba\uff0c\u77ed\u53d1"]


@pytest.mark.parametrize("image, said", [
    (torch.zeros(1, 32, 32, 3), "label_map: label map 1 is background alone"),
    (torch.zeros(0, 32, 32, 3), "label_map: the batch is empty"),
    (torch.rand(1, 64, 64, 3, generator=torch.manual_seed(0)), "label_map: .*'Parse Face'")])
def test_bad_label_maps_are_refused(image, said):
    with pytest.raises(ValueError, match=said):
        DescribeLabelMap.execute(image)
