"""Phrases, prompts, class names and errors with markup in them are shown as text: the page runs nothing of them."""
import json

import pytest

from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import connect, place, show

MARKUP = "<img src=x onerror='window.attacked = 1'><script>window.attacked = 1</script>"
BOX = [0.1, 0.1, 0.4, 0.9]
SET = """([id, values]) => {
    for (const widget of app.graph.getNodeById(id).widgets)
        if (widget.name in values) { widget.value = values[widget.name]; widget.callback?.(widget.value); }
}"""
END = """() => {
    window.ended = new Promise(resolve => ["execution_success", "execution_error"].forEach(
        kind => app.api.addEventListener(kind, ({ detail }) => resolve(detail.exception_message ?? ""))));
    app.queuePrompt(0);
}"""
FOREIGN = """() => {
    const inside = root => [...root.querySelectorAll("*")].flatMap(
        one => [one, ...(one.shadowRoot ? inside(one.shadowRoot) : [])]);
    return inside(document).filter(one => one.getAttribute("onerror")).length;
}"""


@pytest.fixture
def page(shared_page):
    yield shared_page
    shared_page.evaluate("() => app.graph.clear()")
    assert shared_page.evaluate("() => window.attacked") is None
    assert shared_page.evaluate(FOREIGN) == 0


def run(page) -> str:
    """The message with which a run of the graph ends."""
    page.evaluate(END)
    message = page.evaluate("() => window.ended")
    page.wait_for_timeout(500)  # results and errors are drawn
    return message


def place_with(page, kind: str, x: int, **values) -> int:
    node = place(page, kind, x)
    page.evaluate(SET, [node, values])
    return node


def test_phrases_are_text(renderer, page, artefacts):
    editor = NodeEditor.placed(page)
    pair = {"subject": MARKUP, "action": MARKUP, "object": MARKUP, "subject_box": BOX, "object_box": BOX}
    page.evaluate(SET, [editor.node_id, {"text": json.dumps([pair])}])
    preview = place(page, "MDiT_PreviewInteractions", 900)
    connect(page, editor.node_id, 0, preview, "interactions")
    assert run(page) == ""
    show(page)
    assert editor.field(1, "subject").input_value() == MARKUP
    page.screenshot(path=artefacts / f"markup in phrases {renderer}.png")


def test_prompts_are_text(renderer, page, artefacts):
    page.evaluate("() => app.graph.clear()")
    face = place(page, "MDiT_ExampleLabelMap")
    words = place_with(page, "MDiT_DescribeLabelMap", 400, prompt=MARKUP)
    seen = place(page, "PreviewAny", 900)
    connect(page, face, 0, words, "label_map")
    connect(page, words, 0, seen, "source")
    assert run(page) == ""
    show(page)
    page.screenshot(path=artefacts / f"markup in a prompt {renderer}.png")


def test_class_names_in_an_error_are_text(renderer, page, artefacts):
    page.evaluate("() => app.graph.clear()")
    face = place(page, "MDiT_ExampleLabelMap")
    masks = place_with(page, "MDiT_LabelMapToMasks", 400, classes=MARKUP)
    seen = place(page, "MaskPreview", 900)
    connect(page, face, 0, masks, "label_map")
    connect(page, masks, 0, seen, "mask")
    message = run(page)
    assert message.startswith("classes: ") and "<img" in message
    show(page)
    page.screenshot(path=artefacts / f"markup in an error {renderer}.png")
