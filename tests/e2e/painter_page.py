"""What a person does with the painter of a node, and with any editor on a node, for the browser tests."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mditface.mdit.labelmap import CLASSES, decode_drawing
from mditface.nodes.routes import PATH, answer_content

HERE = Path(__file__).parent
WEB = HERE.parents[1] / "web"
UNITS = ("units.js", "painter_units.js", "draw_interactions_units.js")
WINDOW_BLUR = "() => { window.dispatchEvent(new Event('blur')); }"
KEY_DOWN = """event => window.panel.canvas.dispatchEvent(
    new KeyboardEvent("keydown", { bubbles: true, cancelable: true, composed: true, ...event }))"""
TAB_SWITCH = """() => {
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
    delete document.hidden;
}"""
ALONE = """<!doctype html><title>editor</title>
<body style="margin: 0; height: 100vh; display: grid"><div id="host"></div>
<script type="module">
%s
</script>"""
PAINTER = """
import { decode, encode } from "/painter/codec.js";
import { PainterPanel } from "/painter/panel.js";
import { wordsFor } from "/painter/words.js";
window.forwarded = 0;
const runs = Object.assign(new EventTarget(), { follow: () => {} });
window.services = {
    forward: () => { window.forwarded++; },
    fetchApi: (...request) => fetch(...request), pansByWheel: () => window.pans, runs,
    settings: new Map(),
};
window.panel = new PainterPanel(document.querySelector("#host"), wordsFor("en"), window.services);
window.load = async text => window.panel.editor.reset(await decode(text));
window.text = () => encode(window.panel.editor.map);
"""
# What has changed is laid out by then.
FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
PLACE = """async ([type, pos]) => {
    const node = LiteGraph.createNode(type);
    node.pos = pos;
    app.graph.add(node);
    return node.id;
}"""
RUN = """async () => {
    const done = new Promise((resolve, reject) => {
        app.api.addEventListener("execution_success", ({ detail }) => resolve(detail.prompt_id), { once: true });
        app.api.addEventListener("execution_error", ({ detail }) => reject(detail.exception_message), { once: true });
    });
    await app.queuePrompt(0);
    return await done;
}"""
VALUE = """async ([id, name]) => await app.canvas.graph.getNodeById(id).widgets.find(widget => widget.name === name)
    .serializeValue()"""


@contextmanager
def alone(browser, script: str = PAINTER) -> Iterator:
    """A page with one editor and no host but its reader, as insecure as a server in the local network.

    `our_errors` grows.
    """
    context = browser.new_context(viewport={"width": 900, "height": 700}, accept_downloads=True)
    page = context.new_page()
    page.our_errors = []
    page.on("console", lambda message: page.our_errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.our_errors.append(str(error)))
    page.route("http://editor.test/**", partial(serve, script))
    page.goto("http://editor.test/")
    page.wait_for_function("() => window.text")
    yield page
    context.close()


def serve(script: str, route) -> None:
    path = route.request.url.removeprefix("http://editor.test/")
    if path in UNITS:
        route.fulfill(path=HERE / path)
    elif (WEB / path).is_file():
        route.fulfill(path=WEB / path)
    elif path == PATH[1:]:
        route.fulfill(json=answer_content(route.request.post_data_buffer or b""))
    elif path == "":
        route.fulfill(body=ALONE % script, content_type="text/html")
    else:
        route.fulfill(status=204)  # the browser's icon


def place(page, node_type: str, x: int = 0, y: int = 0) -> int:
    """Add a node to the graph that the page shows; its id."""
    return page.evaluate(PLACE, [node_type, [x, y]])


def place_alone(page, node_type: str, x: int = 0) -> int:
    """Make the node the graph's only one; its id."""
    page.evaluate("() => app.graph.clear()")
    return place(page, node_type, x)


def choose(page, loader: int, name: str) -> None:
    """Choose a file in a Load Image node, which then shows it: it shows the first file of the list before."""
    page.evaluate("""([id, name]) => {
        const [widget] = app.graph.getNodeById(id).widgets;
        widget.value = name;
        widget.callback?.(name);
    }""", [loader, name])


def connect(page, source: int, slot: int, target: int, name: str) -> None:
    page.evaluate("""([source, slot, target, name]) => {
        const to = app.graph.getNodeById(target);
        app.graph.getNodeById(source).connect(slot, to, to.inputs.findIndex(input => input.name === name));
    }""", [source, slot, target, name])


def copied(page, node_id: int) -> int:
    """Copy and paste the only node of the graph; the copy's id."""
    page.evaluate("""id => {
        app.canvas.selectItems([app.graph.getNodeById(id)]);
        app.canvas.copyToClipboard();
        app.canvas.graph_mouse = [700, 0];
        app.canvas.pasteFromClipboard();
    }""", node_id)
    other_id = page.evaluate("id => app.graph.nodes.find(node => node.id != id).id", node_id)
    page.evaluate("id => { app.graph.getNodeById(id).pos = [700, 0]; }", other_id)
    show(page)
    return other_id


def inside_subgraph(page, node_id: int) -> int:
    """Put a node into a subgraph of its own and open that; the node's id in it."""
    page.evaluate("""id => {
        const { subgraph, node } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]));
        app.canvas.openSubgraph(subgraph, node);
    }""", node_id)
    show(page)
    return page.evaluate("() => app.canvas.graph.nodes[0].id")


def errors_when_queued(page, node_id: int) -> list[dict]:
    """The errors that the host finds on a node when the graph is queued."""
    page.evaluate("async () => { await app.queuePrompt(0); }")
    page.wait_for_function("id => app.lastNodeErrors?.[id]", arg=node_id)
    return page.evaluate("id => app.lastNodeErrors[id].errors", node_id)


def show(page) -> None:
    """Bring the origin of the graph on the screen, unscaled."""
    page.evaluate("""() => {
        Object.assign(app.canvas.ds, { scale: 1, offset: [80, 100] });
        app.canvas.setDirty(true, true);
    }""")
    page.wait_for_timeout(300)  # the front end moves widgets after it has drawn


class Surface:
    """An editor on a page; `read()` gives its text. `shape` is the (height, width) of what it shows."""
    kind: str

    def __init__(self, page, read: Callable[[], str], number: int = 0):
        self.page, self.text = page, read
        self.root = page.locator(f".{self.kind}:visible").nth(number)  # editors of other graphs are hidden
        self.canvas = self.root.locator("canvas")
        self.canvas.wait_for()

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of what is shown is on the page, while all of it is."""
        box = self.canvas.bounding_box()
        height, width = self.shape
        scale = min(box["width"] / width, box["height"] / height)
        return (box["x"] + (box["width"] - scale * width) / 2 + scale * x,
                box["y"] + (box["height"] - scale * height) / 2 + scale * y)

    def stroke(self, *points: tuple[float, float]) -> None:
        """Press at the first point, move over the others, release."""
        self.page.evaluate(FRAMES)
        places = [self.at(*point) for point in points]
        mouse = self.page.mouse
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place, steps=5)
        mouse.up()
        self.page.evaluate(FRAMES)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def command(self, name: str) -> None:
        button = self.root.locator(f"button[data-command='{name}']")
        if not button.is_visible() and self.root.locator(f".popup.more [data-command='{name}']").count():
            self.root.locator("button[data-command='more']").click()
        button.click()


class Pointers:
    """Real pointer events of a mouse, a pen and fingers, also at the same time."""

    def __init__(self, page):
        self.page, self.session = page, page.context.new_cdp_session(page)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """`points` are all fingers that are then on the screen."""
        self.session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": [
            {"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]})

    def stylus(self, kind: str, point: tuple[float, float], kind_of_pointer: str = "pen") -> None:
        """A pen or a mouse with its left button: Pressed, Moved or Released."""
        x, y = point
        self.session.send("Input.dispatchMouseEvent", {
            "type": f"mouse{kind}", "x": x, "y": y, "button": "left", "buttons": int(kind != "Released"),
            "clickCount": 1, "pointerType": kind_of_pointer, "force": 1.0})

    def press_others(self, point: tuple[float, float]) -> None:
        """The other buttons of a mouse whose left button is down."""
        x, y = point
        for button, bit in (("right", 2), ("middle", 4)):
            for kind, buttons in (("Pressed", 1 + bit), ("Released", 1)):
                self.session.send("Input.dispatchMouseEvent", {
                    "type": f"mouse{kind}", "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1})

    def turn_wheel(self, point: tuple[float, float]) -> None:
        x, y = point
        self.session.send("Input.dispatchMouseEvent", {
            "type": "mouseWheel", "x": x, "y": y, "button": "none", "buttons": 1, "deltaX": 0, "deltaY": -300})

    def drag(self, owner: str, points: list[tuple[float, float]], between=lambda: None) -> None:
        """A drag of a "mouse", "pen" or "finger" over points; `between` happens half way."""
        steps = [lambda point, kind=kind: self.stylus(kind, point, owner) for kind in ("Pressed", "Moved", "Released")]
        if owner == "finger":
            steps = [lambda point, kind=kind: self.touch(kind, *[point] * (kind != "End"))
                     for kind in ("Start", "Move", "End")]
        press, move, release = steps
        half = len(points) // 2
        press(points[0])
        for point in points[1:half]:
            move(point)
        between()
        for point in points[half:]:
            move(point)
        release(points[-1])
        self.page.evaluate(FRAMES)


class Painter(Surface):
    kind = "painter"

    def __init__(self, page, read: Callable[[], str], number: int = 0):
        super().__init__(page, read, number)
        self.drawing()

    def drawing(self):
        """The label map of that value, (H, W) uint8."""
        drawing = decode_drawing(self.text())
        self.shape = drawing.shape
        return drawing

    def await_drawing(self, expected: Callable) -> None:
        """Wait for a drawing of which `expected(drawing)` holds: files and faces arrive a little later."""
        for _ in range(200):
            if expected(self.drawing()):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("the drawing did not become the expected one in 20 s")

    def choose(self, name: str) -> None:
        """A class or a tool, by its radio button."""
        value = str(CLASSES.index(name)) if name in CLASSES else name
        self.root.locator(f"label:has(input[value='{value}'])").click()


class NodePainter(Painter):
    """The painter of a node of the graph on the screen."""

    def __init__(self, page, node_id: int, number: int = 0):
        self.node_id = node_id
        super().__init__(page, lambda: page.evaluate(VALUE, [node_id, "drawing"]), number)

    @classmethod
    def placed(cls, page) -> NodePainter:
        """On a new node in an empty graph."""
        node_id = place_alone(page, "MDiT_PaintLabelMap")
        show(page)
        return cls(page, node_id)
