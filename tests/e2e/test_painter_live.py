"""The picture inside the painter: the node's own branch, Run, Live and failures, with both ways of drawing nodes."""
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mditface.mdit.labelmap import PALETTE
from mditface.tests.e2e.painter_page import NodePainter, connect, inside_subgraph, place, show

LISTEN = """() => {
    window.started ??= app.api.addEventListener("execution_start", () => { window.starts++; }) ?? true;
    window.ended ??= app.api.addEventListener("execution_success", () => { window.ends++; }) ?? true;
    window.changed ??= app.api.addEventListener("graphChanged", () => { window.changes++; }) ?? true;
    Object.assign(window, { starts: 0, ends: 0, changes: 0 });
}"""


@pytest.fixture
def page(shared_page):
    shared_page.our_errors.clear()
    yield shared_page
    shared_page.evaluate("() => app.canvas.setGraph(app.rootGraph)")
    assert shared_page.our_errors == []


@pytest.fixture
def wait_node(renderer, page):
    """A painter, the node that its picture waits in, and what shows the picture; the id of the second."""
    painter = NodePainter.placed(page)
    wait, preview = place(page, "Probe_Wait", 900), place(page, "PreviewImage", 900, 300)
    connect(page, painter.node_id, 0, wait, "image")
    connect(page, wait, 0, preview, "images")
    for name, value in (("seconds", 0), ("fails", False)):
        set_widget(page, wait, name, value)  # the front end remembers those of a node with the same id
    page.evaluate(LISTEN)
    painter.root.locator(".result").wait_for(timeout=20_000)
    page.wait_for_timeout(300)  # the drawing is laid out beside the picture
    return painter, wait


def set_widget(page, node_id: int, name: str, value) -> None:
    page.evaluate("""([id, name, value]) => {
        app.graph.getNodeById(id).widgets.find(widget => widget.name === name).value = value;
    }""", [node_id, name, value])


def await_picture(page, painter, server, drawing=None) -> None:
    """Wait until the painter shows the picture of a drawing, by default the present one."""
    expected = np.array(PALETTE, np.uint8)[painter.drawing() if drawing is None else drawing]
    for _ in range(100):
        address = painter.root.locator(".picture img").get_attribute("src")
        if address:
            content = server.session.get(server.url + address).content
            if np.array_equal(np.array(Image.open(io.BytesIO(content)).convert("RGB")), expected):
                return
        page.wait_for_timeout(200)
    raise AssertionError("the painter does not show the picture of the drawing after 20 s")


def test_run_shows_the_picture_beside_the_drawing(wait_node, page, server, artefacts, renderer):
    painter, _ = wait_node
    other, alone = place(page, "EmptyImage", 900, 600), place(page, "PreviewImage", 900, 800)
    connect(page, other, 0, alone, "images")  # of no branch of the painter
    painter.command("run")
    await_picture(page, painter, server)
    page.screenshot(path=artefacts / f"painter with its picture, {renderer}.png")
    painter.stroke((100, 60), (400, 60))
    page.wait_for_timeout(500)
    assert page.evaluate("() => window.starts") == 1


def test_live_runs_once_a_stroke(wait_node, page, server):
    """Also when the host has not noticed an earlier change of the graph."""
    painter, wait = wait_node
    painter.command("live")
    await_picture(page, painter, server)
    page.evaluate("id => { app.graph.getNodeById(id).size[1] += 4; }", wait)
    page.evaluate(LISTEN)
    painter.stroke((100, 60), (400, 60))
    await_picture(page, painter, server)
    page.wait_for_timeout(500)
    assert page.evaluate("() => [window.starts, window.changes]") == [1, 1]
    painter.press("Control+z")
    await_picture(page, painter, server)
    assert page.evaluate("() => window.starts") == 2
    painter.command("live")
    painter.stroke((100, 160), (400, 160))
    page.wait_for_timeout(500)
    assert page.evaluate("() => window.starts") == 2


def test_a_live_run_that_waits_is_dropped(wait_node, page, server):
    painter, wait = wait_node
    painter.command("live")
    await_picture(page, painter, server)
    set_widget(page, wait, "seconds", 8)
    page.evaluate(LISTEN)
    painter.stroke((100, 60), (400, 60))
    page.wait_for_function("() => window.starts === 1")
    painter.root.locator("progress").wait_for()
    set_widget(page, wait, "seconds", 0)
    for y in (100, 140, 180):
        painter.stroke((100, y), (400, y))
    await_picture(page, painter, server)
    page.wait_for_function("() => window.ends === 2")
    painter.root.locator("progress").wait_for(state="hidden")
    assert page.evaluate("() => window.starts") == 2


def test_live_stops_when_a_run_fails(wait_node, page, server):
    painter, wait = wait_node
    set_widget(page, wait, "fails", True)
    live = painter.root.locator("button[data-command='live']")
    painter.command("live")
    painter.root.get_by_role("alert").get_by_text("simulated: the node fails").wait_for(timeout=20_000)
    assert live.get_attribute("aria-pressed") == "false"
    page.evaluate("() => { const close = document.querySelector('[role=dialog] button'); close?.click(); }")
    page.evaluate("""() => app.graph.nodes.find(({ type }) => type === "PreviewImage").disconnectInput(0)""")
    painter.command("live")
    painter.root.get_by_role("alert").get_by_text("Required input is missing").wait_for(timeout=20_000)
    assert live.get_attribute("aria-pressed") == "false"


def test_live_is_off_at_first_and_kept_with_the_node(wait_node, page, server):
    painter, _ = wait_node
    live = painter.root.locator("button[data-command='live']")
    assert live.get_attribute("aria-pressed") == "false"
    painter.command("live")
    await_picture(page, painter, server)
    page.evaluate("async () => { await app.loadGraphData(app.graph.serialize()); }")
    show(page)
    painter.root.locator("button[data-command='live'][aria-pressed='true']").wait_for(timeout=20_000)


def test_the_picture_comes_back_with_the_hosts_undo(wait_node, page, server):
    painter, _ = wait_node
    painter.command("run")
    await_picture(page, painter, server)
    shown = painter.drawing()
    painter.stroke((100, 60), (400, 60))
    page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")
    painter.await_drawing(lambda drawing: torch.equal(drawing, shown))
    await_picture(page, painter, server)


def test_the_branch_goes_through_subgraphs(wait_node, page, server):
    """The painter in one, what shows the picture in another."""
    painter, wait = wait_node
    page.evaluate("""id => app.graph.convertToSubgraph(new Set(
        app.graph.nodes.filter(node => node.id === id || node.type === "PreviewImage")))""", wait)
    inside = NodePainter(page, inside_subgraph(page, painter.node_id))
    inside.root.locator(".result").wait_for(timeout=20_000)
    page.wait_for_timeout(300)
    inside.command("run")
    await_picture(page, inside, server)
