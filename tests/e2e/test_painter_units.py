"""The painter's modules, each function of painter_units.js on its own, and what they share with the nodes."""
import re

import pytest

from mditface.mdit.labelmap import CLASSES, PALETTE, decode_drawing
from mditface.tests.e2e.painter_page import HERE, alone

NAMES = re.findall(r"^export (?:async )?function (\w+)", (HERE / "painter_units.js").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def page(browser):
    with alone(browser) as loaded:
        yield loaded


@pytest.mark.parametrize("name", NAMES)
def test_unit(page, name):
    page.evaluate("async name => { await (await import('/painter_units.js'))[name](); }", name)


def test_classes_are_those_of_the_nodes(page):
    classes, palette = page.evaluate("""async () => {
        const { CLASSES, PALETTE } = await import("/painter/classes.js");
        return [CLASSES, PALETTE];
    }""")
    assert tuple(classes) == CLASSES
    assert tuple(map(tuple, palette)) == PALETTE


def test_the_node_reads_what_the_painter_writes(page):
    text, labels = page.evaluate("""async () => {
        const { encode } = await import("/painter/codec.js");
        const labels = Uint8Array.from({ length: 60 * 50 }, (_, i) => (i * i) % 19);
        return [await encode({ width: 60, height: 50, labels }), [...labels]];
    }""")
    assert decode_drawing(text).flatten().tolist() == labels
