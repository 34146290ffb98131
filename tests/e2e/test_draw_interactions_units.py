"""The modules of the editor of interactions, each function of draw_interactions_units.js on its own.

And what they share with the nodes.
"""
import re

import pytest
import torch

from mditface.mdit.interactdiffusion.draw import COLORS
from mditface.mdit.interactdiffusion.model import compute_action_boxes
from mditface.mdit.interactdiffusion.text import FIELDS, parse_interactions
from mditface.nodes.interactdiffusion import FIRST_LAYOUT
from mditface.tests.e2e.draw_interactions_page import EDITOR
from mditface.tests.e2e.painter_page import HERE, alone
from mditface.tests.interactdiffusion.tiny import FEEDING, HOLDING

NAMES = re.findall(r"^export function (\w+)", (HERE / "draw_interactions_units.js").read_text(), re.MULTILINE)
MODEL = 'await import("/interactions/model.js")'


@pytest.fixture(scope="module")
def page(browser):
    with alone(browser, EDITOR) as loaded:
        yield loaded


@pytest.mark.parametrize("name", NAMES)
def test_unit(page, name):
    page.evaluate("async name => { await (await import('/draw_interactions_units.js'))[name](); }", name)


def test_colours_and_fields_are_those_of_the_nodes(page):
    colours, fields, limit = page.evaluate(f"""async () => {{
        const {{ COLORS, PHRASES, BOXES, LIMIT }} = {MODEL};
        return [COLORS, [...PHRASES, ...BOXES], LIMIT];
    }}""")
    assert tuple(map(tuple, colours)) == COLORS
    assert tuple(fields) == FIELDS
    assert limit == 30


def test_the_nodes_read_what_the_editor_writes(page):
    given = [dict(zip(FIELDS, one)) for one in (FEEDING, HOLDING._replace(subject='a "tall" [x] = y; \n {z}'))]
    text = page.evaluate(f"async given => ({MODEL}).toText(given)", given)
    assert [dict(zip(FIELDS, one)) for one in parse_interactions(text)] == [
        {**one, "subject_box": tuple(one["subject_box"]), "object_box": tuple(one["object_box"])} for one in given]


def test_the_editor_reads_what_a_new_node_holds(page):
    found = page.evaluate(f"async text => ({MODEL}).fromText(text)", FIRST_LAYOUT)
    (one,) = parse_interactions(FIRST_LAYOUT)
    assert [tuple(found[0][name]) if "box" in name else found[0][name] for name in FIELDS] == list(one)


def test_the_action_lies_where_the_model_puts_it(page):
    boxes = torch.rand(50, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = page.evaluate(f"""async pairs => {{
        const {{ between }} = {MODEL};
        return pairs.map(([one, other]) => between(one, other));
    }}""", boxes.tolist())
    assert torch.equal(torch.tensor(found, dtype=torch.float64), compute_action_boxes(boxes[:, 0], boxes[:, 1]))
