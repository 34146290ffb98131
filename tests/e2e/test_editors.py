"""What holds for every editor on a node alike."""
import pytest
from PIL import Image

from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import NodePainter, connect, place

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_a_removed_node_leaves_nothing(shared_page, editor):
    shared_page.our_errors.clear()
    made = editor.placed(shared_page)
    shared_page.evaluate("id => app.graph.remove(app.graph.getNodeById(id))", made.node_id)
    shared_page.locator(f".{made.kind}").wait_for(state="detached")
    assert shared_page.our_errors == []


@pytest.fixture
def colors(server, tmp_path):
    """The names under which Load Image finds an image of one color."""
    for name, color in COLORS.items():
        Image.new("RGB", (64, 64), color).save(tmp_path / f"under-{name}.png")
    return {name: server.upload(tmp_path / f"under-{name}.png") for name in COLORS}


def choose(page, loader: int, name: str) -> None:
    page.evaluate("""([id, name]) => {
        const [widget] = app.graph.getNodeById(id).widgets;
        widget.value = name;
        widget.callback?.(name);
    }""", [loader, name])


def shows(page, made, color: str | None) -> None:
    """Wait until the canvas of an editor shows a color in its corner, where nothing is drawn; None: no image."""
    page.wait_for_function("""([kind, wanted]) => {
        const roots = [...document.querySelectorAll("*")].map(host => host.shadowRoot).filter(Boolean);
        const canvas = roots.map(root => root.querySelector(`.${kind} canvas`)).find(Boolean);
        const { width, height } = canvas, side = Math.min(width, height);
        const at = [(width - side) / 2 + 6, (height + side) / 2 - 6];
        const [red, green, blue] = canvas.getContext("2d").getImageData(...at, 1, 1).data;
        const found = ["red", "green", "blue"].find((_, k) => [red, green, blue].every(
            (level, channel) => channel === k ? level > 150 : level < 90)) ?? null;
        return found === wanted;
    }""", arg=[made.kind, color], timeout=20_000)


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_the_background_is_what_the_connected_node_shows(renderer, shared_page, colors, editor):
    """Without a run: another file, another node, a reroute between them, a bypassed node, a cut link."""
    page = shared_page
    page.our_errors.clear()
    made = editor.placed(page)
    if editor is NodePainter:
        made.command("clear")
    first, second = place(page, "LoadImage", 900, 0), place(page, "LoadImage", 900, 500)
    choose(page, first, colors["red"])
    choose(page, second, colors["blue"])
    connect(page, first, 0, made.node_id, "background")
    shows(page, made, "red")
    choose(page, first, colors["green"])
    shows(page, made, "green")
    connect(page, second, 0, made.node_id, "background")
    shows(page, made, "blue")
    reroute, invert = place(page, "Reroute", 600, 0), place(page, "ImageInvert", 600, 200)
    page.evaluate("([from, to]) => app.graph.getNodeById(from).connect(0, app.graph.getNodeById(to), 0)",
                  [first, reroute])
    connect(page, reroute, 0, made.node_id, "background")
    shows(page, made, "green")
    choose(page, first, colors["red"])
    shows(page, made, "red")
    connect(page, second, 0, invert, "image")
    connect(page, invert, 0, made.node_id, "background")
    shows(page, made, None)
    page.evaluate("id => { app.graph.getNodeById(id).mode = 4; }", invert)
    shows(page, made, "blue")
    page.evaluate("id => { const node = app.graph.getNodeById(id); node.disconnectInput("
                  "node.inputs.findIndex(({ name }) => name === 'background')); }", made.node_id)
    shows(page, made, None)
    assert page.our_errors == []
