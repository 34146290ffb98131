"""The starter opens as an app: paint, press Run, see the face. Behind it lie three nodes."""
import numpy as np
import pytest

from mditface.tests.e2e.test_browser import LISTEN, open_template

STARTER = "1 Paint a face.app"
CANVAS = ".painter canvas"
FITS = """() => app.graph.nodes.every(node => {
    const [x, y, width, height] = node.getBounding(), { scale, offset } = app.canvas.ds;
    return (x + offset[0]) * scale >= 0 && (x + width + offset[0]) * scale <= app.canvas.canvas.clientWidth;
})"""


def run(page, server) -> np.ndarray:
    page.evaluate(LISTEN)
    page.get_by_role("button", name="Run", exact=True).last.click()
    return np.asarray(server.image(server.wait(page.evaluate("() => window.ran")))).astype(float)


def test_a_stroke_in_the_app_changes_the_face(renderer, page, server, artefacts):
    open_template(page, STARTER)
    page.get_by_text("Number of runs", exact=True).wait_for()
    before = run(page, server)
    box = page.locator(CANVAS).first.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.75 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.75 * box["height"], steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)  # a tooltip would have come
    assert page.locator(".p-tooltip").count() == 0
    after = run(page, server)
    page.wait_for_timeout(1000)
    page.screenshot(path=artefacts / f"app, {renderer}.png")
    assert abs(after - before).mean() > 1
    assert page.our_errors == []


def test_three_nodes_lie_behind_the_app(renderer, page, artefacts):
    open_template(page, STARTER)
    page.get_by_text("Number of runs", exact=True).wait_for()
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    page.wait_for_timeout(1000)  # the canvas comes back
    page.screenshot(path=artefacts / f"starter, {renderer}.png")
    assert page.evaluate("() => app.graph.nodes.length") == 3
    assert page.evaluate("() => app.canvas.ds.scale") >= 0.8
    assert page.evaluate(FITS)
    assert page.our_errors == []


def test_a_template_brings_its_app(renderer, page, artefacts):
    """What a user changes and looks at; there, nothing gives an editor its height."""
    open_template(page, "5 Scene, who does what")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    canvas = page.locator(".interactions:visible canvas")
    canvas.wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=artefacts / f"app of a scene, {renderer}.png")
    box, stage = canvas.bounding_box(), page.locator(".interactions:visible .stage").bounding_box()
    assert box == pytest.approx(stage, abs=1)
    assert box["height"] == pytest.approx(box["width"], abs=2) and box["width"] > 100
    page.evaluate("() => app.extensionManager.command.execute('Comfy.ToggleLinear')")
    assert page.our_errors == []
