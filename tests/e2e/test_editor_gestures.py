"""Strokes and drags in the host, in both renderers: what happens beside the first pointer changes nothing."""
import pytest
import torch

from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import FRAMES, TAB_SWITCH, WINDOW_BLUR, NodePainter, Pointers

DRAGS = {NodePainter: ("hat", [(100, 60), (160, 60), (220, 60), (280, 60), (340, 60), (400, 60)]),
         NodeEditor: ("move", [(90, 230), (100, 232), (115, 236), (130, 240), (150, 250), (170, 260)])}
PALM = ((300, 300), (330, 340))
KEYS = ("Control+z", "Control+y", "e", "n", "v", " ", "Enter", "Delete", "Shift+Delete", "g", "ArrowLeft")
GRAPH = """() => JSON.stringify(
    [app.canvas.ds.scale, [...app.canvas.ds.offset], app.graph.nodes.map(({ pos }) => [...pos])])"""
UNDO = "button[data-command='undo'][aria-disabled='false']"
ENDS = {
    "lost capture": """canvas => {
        for (const id of Array(5000).keys()) if (canvas.hasPointerCapture(id)) canvas.releasePointerCapture(id);
    }""",
    "window blur": WINDOW_BLUR,
    "tab switch": TAB_SWITCH,
    "Escape": """canvas => {
        const key = { key: "Escape", code: "Escape", bubbles: true, composed: true, cancelable: true };
        canvas.dispatchEvent(new KeyboardEvent("keydown", key));
    }""",
}


def put_palm(made, pointers, held):
    """A finger lands, moves and leaves; `held` is the finger that draws."""
    here, there = (made.at(*point) for point in PALM)
    pointers.touch("Start", *held, here)
    pointers.touch("Move", *held, there)
    if not held:
        pointers.touch("End")


def put_palm_on_the_graph(made, pointers, held):
    pointers.touch("Start", *held, (1300, 850))
    pointers.touch("Move", *held, (1250, 700))
    if not held:
        pointers.touch("End")


def turn_wheel_on_the_graph(made, pointers, held):
    pointers.turn_wheel((1300, 850))


def open_menu(made, pointers, held):
    opens = made.canvas.evaluate("""canvas => canvas.dispatchEvent(
        new MouseEvent("contextmenu", { bubbles: true, cancelable: true, composed: true, button: 2 }))""")
    assert not opens


def press_keys(made, pointers, held):
    made.press(*KEYS)


def turn_wheel(made, pointers, held):
    pointers.turn_wheel(made.at(*PALM[0]))


TOUCHES = (put_palm, put_palm_on_the_graph, open_menu, press_keys)
# the finger first: after a pen it would be a palm
BESIDE = {"finger": TOUCHES, "mouse": (*TOUCHES, turn_wheel), "pen": (*TOUCHES, turn_wheel_on_the_graph)}


def content(made):
    """What an editor shows. Python and browsers compress the same drawing to different texts."""
    return made.drawing() if isinstance(made, NodePainter) else made.text()


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def is_whole(made, alone) -> bool:
    """Whether a gesture has done what it does alone; half of a stroke, or a blot, has some thousand pixels."""
    if isinstance(made, NodePainter):
        return (made.drawing() != alone).sum() < 50  # the canvas may have moved by a fraction of a pixel since
    return made.text() == alone


@pytest.fixture(params=DRAGS)
def dragged(request, renderer, shared_page):
    """An editor on a node, its pointers, and the places of a drag on the page."""
    shared_page.our_errors.clear()
    made = request.param.placed(shared_page)
    tool, points = DRAGS[request.param]
    made.choose(tool)
    yield made, Pointers(shared_page), [made.at(*point) for point in points]
    assert shared_page.our_errors == []


def test_the_first_pointer_owns_the_gesture(dragged):
    """The result is the same as without the others, one undo restores, and the graph stays where it is."""
    made, pointers, path = dragged
    before, graph = content(made), made.page.evaluate(GRAPH)
    for owner, others in BESIDE.items():
        pointers.drag(owner, path)
        alone = content(made)
        assert not same(alone, before), owner
        made.press("Control+z")
        assert same(content(made), before), owner
        for beside in others:
            held = [path[2]] if owner == "finger" else []
            pointers.drag(owner, path, lambda: beside(made, pointers, held))
            assert is_whole(made, alone), f"{owner}, {beside.__name__}"
            made.press("Control+z")
            assert same(content(made), before), f"{owner}, {beside.__name__}"
            assert made.page.evaluate(GRAPH) == graph, f"{owner}, {beside.__name__}"


@pytest.mark.parametrize("owner", ["pen", "finger"])
def test_a_gesture_that_is_cut_off_is_undone(dragged, owner):
    """What the pointer does after the cut counts for nothing."""
    made, pointers, path = dragged
    before = content(made)
    pointers.drag(owner, path)
    alone = content(made)
    made.press("Control+z")
    for name, end in ENDS.items():
        pointers.drag(owner, path, lambda: made.canvas.evaluate(end))
        assert not is_whole(made, alone), f"{name}: the pointer still draws"
        if made.root.locator(UNDO).count():
            made.press("Control+z")
        assert same(content(made), before), name


def test_two_fingers_move_the_view_and_not_the_graph(dragged):
    made, pointers, _ = dragged
    before, graph = content(made), made.page.evaluate(GRAPH)
    zoom = made.root.locator(".status .number")
    shown = zoom.text_content()
    a, b = made.at(150, 150), made.at(300, 150)
    pointers.touch("Start", a)
    pointers.touch("Start", a, b)
    pointers.touch("Move", a, (b[0] + 120, b[1] + 30))
    pointers.touch("End")
    made.page.evaluate(FRAMES)
    assert same(content(made), before) and made.page.evaluate(GRAPH) == graph
    assert int(zoom.text_content().split()[0]) > int(shown.split()[0])
