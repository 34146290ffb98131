"""A size far above the trained one is told in a message, in both renderers."""
from mditface.tests.e2e.painter_page import place_alone, show

EXECUTED = "([id, size]) => app.graph.getNodeById(id).onExecuted({ far_size: size })"


def test_a_size_far_above_the_trained_one_is_told_once(renderer, shared_page):
    page = shared_page
    page.our_errors.clear()
    node = place_alone(page, "MDiT_PictureSize", 300)
    show(page)
    width = {"canvas": 1024, "nodes 2.0": 1536}[renderer]  # messages of the other renderer may still be shown
    told = page.locator(".p-toast-message", has_text=f"{width} x 768 pixels are far above the 128")
    page.evaluate(EXECUTED, [node, []])
    assert told.count() == 0
    for _ in range(2):
        page.evaluate(EXECUTED, [node, [width, 768, 128]])
    told.wait_for()
    assert told.count() == 1
    assert page.our_errors == []
