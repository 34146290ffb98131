"""What holds for every editor on a node alike."""
import pytest
from PIL import Image

from mditface.tests.e2e.draw_interactions_page import NodeEditor
from mditface.tests.e2e.painter_page import NodePainter, connect, inside_subgraph, place, show

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
    """Choose a file in a Load Image node of the root graph or of a subgraph."""
    page.evaluate("""([id, name]) => {
        const graphs = [app.rootGraph, ...app.rootGraph.subgraphs.values()];
        const node = graphs.map(graph => graph.getNodeById(id)).find(node => node?.type === "LoadImage");
        const [widget] = node.widgets;
        widget.value = name;
        widget.callback?.(name);
    }""", [loader, name])


def shows(page, made, color: str | None) -> None:
    """Wait until the canvas of the editor on the screen shows a color in its corner, where nothing is drawn.

    None: no image.
    """
    page.wait_for_function("""([kind, wanted]) => {
        const roots = [...document.querySelectorAll("*")].map(host => host.shadowRoot).filter(Boolean);
        const canvases = roots.map(root => root.querySelector(`.${kind} canvas`)).filter(Boolean);
        const canvas = canvases.filter(one => one.clientWidth).at(-1); // those of other graphs are hidden
        if (!canvas) return false;
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


def wrap(page, *node_ids: int) -> int:
    """Put nodes of the graph on the screen into a subgraph; the id of the node that stands for them."""
    return page.evaluate("""ids => app.canvas.graph.convertToSubgraph(
        new Set(ids.map(id => app.canvas.graph.getNodeById(id)))).node.id""", node_ids)


@pytest.fixture
def root_graph(shared_page):
    """The page shows the root graph again at the end."""
    yield
    shared_page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


@pytest.fixture
def over_red(shared_page, root_graph, colors):
    """Makes an editor on a node over a red Load Image: the editor, and the id of the loader."""
    def make(editor):
        shared_page.our_errors.clear()
        made = editor.placed(shared_page)
        if editor is NodePainter:
            made.command("clear")
        loader = place(shared_page, "LoadImage", 900, 0)
        choose(shared_page, loader, colors["red"])
        connect(shared_page, loader, 0, made.node_id, "background")
        shows(shared_page, made, "red")
        return made, loader
    return make


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_the_background_reaches_into_subgraphs(shared_page, colors, over_red, editor, depth):
    """The source is outside, where it draws nothing while the subgraph is on the screen."""
    made, loader = over_red(editor)
    outer = wrap(shared_page, made.node_id) if depth == 2 else made.node_id
    inner = inside_subgraph(shared_page, outer)
    if depth == 2:
        shared_page.evaluate("id => { const node = app.canvas.graph.getNodeById(id);"
                             " app.canvas.openSubgraph(node.subgraph, node); }", inner)
        show(shared_page)
    shows(shared_page, made, "red")
    choose(shared_page, loader, colors["green"])
    shows(shared_page, made, "green")
    assert shared_page.our_errors == []


@pytest.mark.parametrize("editor,through", [
    (NodePainter, "nothing"), (NodeEditor, "nothing"), (NodePainter, "a reroute"), (NodeEditor, "a bypassed node"),
    (NodePainter, "a subgraph of its own")])
def test_the_background_comes_out_of_subgraphs(shared_page, colors, over_red, editor, through):
    made, loader = over_red(editor)
    wrapped = [loader]
    if through in ("a reroute", "a bypassed node"):
        between = place(shared_page, "Reroute" if through == "a reroute" else "ImageInvert", 600, 0)
        shared_page.evaluate("""([from, to, mode]) => {
            const node = app.graph.getNodeById(to);
            app.graph.getNodeById(from).connect(0, node, 0);
            node.mode = mode;
        }""", [loader, between, 0 if through == "a reroute" else 4])
        connect(shared_page, between, 0, made.node_id, "background")
        wrapped.append(between)
    elif through == "a subgraph of its own":
        wrapped = [wrap(shared_page, loader)]
    wrap(shared_page, *wrapped)
    choose(shared_page, loader, colors["green"])
    shows(shared_page, made, "green")
    assert shared_page.our_errors == []


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_the_background_crosses_from_one_subgraph_into_another(shared_page, colors, over_red, editor):
    """And through a third one, which only hands the image on."""
    made, loader = over_red(editor)
    reroute = place(shared_page, "Reroute", 600, 0)
    shared_page.evaluate("([from, to]) => app.graph.getNodeById(from).connect(0, app.graph.getNodeById(to), 0)",
                         [loader, reroute])
    connect(shared_page, reroute, 0, made.node_id, "background")
    wrap(shared_page, reroute)
    wrap(shared_page, loader)
    inside_subgraph(shared_page, made.node_id)
    choose(shared_page, loader, colors["blue"])
    shows(shared_page, made, "blue")
    assert shared_page.our_errors == []


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_the_panel_of_parameters_leaves_an_editor_as_it_is(renderer, shared_page, editor):
    """The host's panel would draw an empty row for the editor and set its width to the panel's."""
    page = shared_page
    made = editor.placed(page)
    page.evaluate("id => app.canvas.selectItems([app.graph.getNodeById(id)])", made.node_id)
    if not page.get_by_role("tab", name="Parameters").is_visible():
        page.get_by_role("button", name="Toggle properties panel").click()
    page.get_by_role("tab", name="Parameters").click()
    page.wait_for_timeout(500)  # the panel draws its widgets
    rows, width = page.evaluate("""id => {
        const widget = app.graph.getNodeById(id).widgets.find(({ element }) => element);
        return [document.querySelectorAll("canvas.cursor-crosshair").length, widget.width ?? null];
    }""", made.node_id)
    page.get_by_role("button", name="Toggle properties panel").click()
    assert (rows, width) == (0, None)


@pytest.mark.parametrize("editor", [NodePainter, NodeEditor])
def test_no_tooltip_lies_over_a_drawing(renderer, shared_page, editor):
    page = shared_page
    made = editor.placed(page)
    box = page.locator(f".{made.kind} canvas").first.bounding_box()
    page.mouse.move(box["x"] - 200, box["y"] + 10)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_timeout(1500)  # the front end shows tooltips after half a second
    assert page.locator(".p-tooltip").count() == 0
