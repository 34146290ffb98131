"""The painter's gallery is what its program draws."""
import json

import pytest

from devtools import gallery


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads(gallery.FILE.read_text("utf-8"))


@pytest.mark.parametrize("group, name", [("noses", "wide"), ("hats", "pompom"), ("glasses", "round-dark")])
def test_a_part_is_drawn_again(stored, group, name):
    assert gallery.describe(gallery.draw_part(group, name)) == stored["parts"][group][name]


def test_the_file_is_small_and_holds_every_part(stored):
    assert gallery.FILE.stat().st_size < 60_000
    assert {group: [*names] for group, names in stored["parts"].items()} == {
        group: [*names] for group, names in gallery.PARTS.items()}


def test_an_unknown_target_is_told():
    with pytest.raises(AssertionError, match="no target is named nose/none"):
        gallery.make_head({"nose/none": 1})
