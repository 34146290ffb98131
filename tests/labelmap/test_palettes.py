"""The table of palettes and class orders, and what follows from it."""
import json

import pytest

from devtools import painter_tables
from mditface.mdit.labelmap import CLASSES, DEFAULT_ORDER, DEFAULT_PALETTE, ORDERS, PALETTES, find_entries
from mditface.mdit.labelmap.palettes import AUTO, AUTO_DESCRIPTION, FOREIGN
from mditface.mdit.mditface.reductions import REDUCTIONS
from mditface.nodes.labelmap import palette_inputs

ROOT = painter_tables.FILE.parents[2]


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES)
def test_a_palette_has_one_color_a_class(palette):
    assert len(set(palette.colors)) == len(CLASSES)
    assert all(len(color) == 3 and 0 <= min(color) and max(color) <= 255 for color in palette.colors)


@pytest.mark.parametrize("order", ["CelebAMask-HQ", "face parser", "facer"])
def test_an_order_has_every_class_once(order):
    assert sorted(ORDERS[order].classes) == list(range(len(CLASSES)))


def test_orders_with_fewer_or_other_classes():
    assert [CLASSES[k] for k in ORDERS["LaPa"].classes] == (
        "background skin l_brow r_brow l_eye r_eye nose u_lip mouth l_lip hair l_ear r_ear eye_g").split()
    assert [CLASSES[k] for k in ORDERS["MediaPipe"].classes] == "background hair neck skin cloth background".split()
    assert ORDERS["MediaPipe"].unmapped == {5: "others"}
    sapiens = ORDERS["Sapiens"]
    assert len(sapiens.classes) == 28
    assert {k: CLASSES[c] for k, c in enumerate(sapiens.classes) if c} == {
        1: "cloth", 2: "skin", 3: "hair", 12: "cloth", 22: "cloth", 23: "l_lip", 24: "u_lip", 25: "mouth", 26: "mouth",
        27: "mouth"}
    assert [sapiens.unmapped[k] for k in (4, 11, 13, 20, 21)] == [
        "left foot", "left upper leg", "right foot", "right upper leg", "torso"]


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_table_has_distinct_colors_for_classes_of_its_order(foreign):
    assert len(set(foreign.colors)) == len(foreign.colors) >= 3
    assert foreign.order is None or len(foreign.colors) <= len(ORDERS[foreign.order].classes)


def test_foreign_colors_are_the_published_ones():
    assert FOREIGN["PASCAL VOC colours"].colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert FOREIGN["PASCAL VOC colours"].colors[15] == (192, 128, 128)
    assert FOREIGN["PASCAL VOC colours"].colors[18] == (0, 192, 0)
    assert FOREIGN["LaPa colours"].colors[10] == (255, 0, 102)
    assert FOREIGN["iBug colours"].colors[3] == (139, 54, 38)
    assert FOREIGN["Sapiens colours"].colors[2] == (128, 200, 255)


def test_nodes_offer_and_explain_every_palette_and_order():
    palette, order = palette_inputs()
    assert (palette.options, palette.default) == ([*PALETTES, AUTO], DEFAULT_PALETTE)
    assert (order.options, order.default) == (list(ORDERS), DEFAULT_ORDER)
    for name, entry in (PALETTES | ORDERS).items():
        assert f"{name}: {entry.description}" in palette.tooltip + order.tooltip
    assert f"{AUTO}: {AUTO_DESCRIPTION}" in palette.tooltip


def test_one_translation_explains_every_palette_and_order():
    """The tooltips of all nodes with these inputs; where they differ, one of them is outdated."""
    texts = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    inputs = [node["inputs"] for node in texts.values() if {"palette", "order"} <= node["inputs"].keys()]
    for name, table in {"palette": [*PALETTES, AUTO], "order": ORDERS}.items():
        tooltips = {slots[name]["tooltip"] for slots in inputs}
        assert len(tooltips) == 1, f"give every node the same tooltip of {name} in locales/zh/nodeDefs.json"
        (tooltip,) = tooltips
        lines = [f"add to each tooltip of {name} in locales/zh/nodeDefs.json: {key}\uff1aTEXT\u3002"
                 for key in table if f"{key}\uff1a" not in tooltip]
        assert not lines, "\n".join(lines)


def test_the_users_page_describes_every_palette_and_order():
    page = (ROOT / "docs" / "systems" / "label-maps.md").read_text("utf-8")
    lines = [f"add a row | `{name}` | ... | to docs/systems/label-maps.md"
             for name in (*PALETTES, AUTO, *ORDERS, *FOREIGN) if f"\n| `{name}`" not in page]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("pattern", ["*.md", "*/zh.md"])
@pytest.mark.parametrize("table", [[*PALETTES, AUTO], ORDERS, REDUCTIONS], ids=["palettes", "orders", "reductions"])
def test_a_help_page_that_lists_a_table_lists_all_of_it(table, pattern):
    """A line of a page that names two entries of a table is a list of that table."""
    lists, lacking = 0, []
    for page in sorted((ROOT / "web" / "docs").glob(pattern)):
        for line in page.read_text("utf-8").splitlines():
            absent = [name for name in table if f"`{name}`" not in line]
            if len(table) - len(absent) > 1:
                lists += 1
                lacking += [f"name `{name}` in {page.relative_to(ROOT)}: {line[:60]} ..." for name in absent]
    assert lists, "no help page lists the table"
    assert not lacking, "\n".join(lacking)


def test_the_painter_has_the_same_tables():
    assert painter_tables.FILE.read_text("utf-8") == painter_tables.tables(), "run python dev.py renew"


def test_exact_colors_are_found_in_a_palette():
    assert find_entries([(204, 0, 0), (0, 0, 0)]) == [1, 0]
    assert find_entries([(204, 0, 0), (1, 0, 0)]) is None
    assert find_entries([(255, 255, 255)], "index picture") == [18]
