"""Unknown words below the prompt, in both renderers."""
from mditface.tests.e2e.painter_page import place_alone, show

EXECUTED = """([id, unknown]) => app.graph.getNodeById(id).onExecuted(
    { unknown_words: unknown, known_words: ["blond", "hair", "beard"] })"""
TEXT = "id => app.graph.getNodeById(id).widgets.find(({ name }) => name === 'text').value"


def test_unknown_words_are_told_and_known_ones_added(renderer, shared_page):
    page = shared_page
    page.our_errors.clear()
    node = place_alone(page, "MDiT_TextConditioning", 300)
    page.evaluate("id => { app.graph.getNodeById(id).widgets.find(({ name }) => name === 'text').value = ''; }", node)
    show(page)
    values = "id => app.graph.getNodeById(id).serialize().widgets_values"
    before = page.evaluate(values, node)
    page.evaluate(EXECUTED, [node, ["sparkling", renderer]])
    told = page.get_by_role("status").filter(has_text=f"sparkling, {renderer}")
    told.wait_for()
    assert page.locator(".p-toast-message", has_text=f"sparkling, {renderer}").count() == 1
    page.get_by_role("button", name="blond").click()
    page.get_by_role("button", name="hair").click()
    assert page.evaluate(TEXT, node) == "blond, hair"
    assert page.evaluate(values, node) == ["blond, hair", *before[1:]]
    page.evaluate(EXECUTED, [node, ["sparkling", renderer]])
    assert page.locator(".p-toast-message", has_text=f"sparkling, {renderer}").count() == 1  # it is told once
    page.evaluate(EXECUTED, [node, []])
    told.wait_for(state="detached")
    assert page.our_errors == []
