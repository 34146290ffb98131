"""Draw the minimal graph of each help page as the front end shows it. The image file holds the graph.

    python dev.py run -- python -m devtools.help_pictures [ID ...]
    python dev.py run -- python -m devtools.help_pictures ID=GRAPH.json ...

The graph is read from the present image file, or, to change it, from a file that the front end saved. A graph that
needs only the bundled models runs first, so that the image shows its result.
"""
from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from devtools import bundled
from devtools.browser import NO_WELCOME, open_front_end, write_settings
from devtools.server import MODEL_ENDINGS, ROOT, Server

DOCS = ROOT / "web" / "docs"
FACE = ROOT / "docs" / "demo-sheet.png"  # its right half is a face, for graphs that load an image
BUNDLED = (bundled.MODEL.name, bundled.JUDGE.name)
COLORS = 64
MARGIN = 16  # pixels around the nodes
CORNER = (140, 140)  # upper left corner of the graph on the page, clear of the front end's bars
PLAIN = NO_WELCOME | {"Comfy.NodeBadge.NodeSourceBadgeMode": "None", "Comfy.Minimap.Visible": False}
LOAD = """async graph => {
    await app.loadGraphData(graph);
    app.canvas.deselectAll();
}"""
RUN = """async () => {
    const done = new Promise((resolve, reject) => {
        app.api.addEventListener("execution_success", resolve, { once: true });
        app.api.addEventListener("execution_error", event => reject(event.detail.exception_message), { once: true });
    });
    await app.queuePrompt(0);
    await done;
}"""
FRAME = """([left, top]) => {
    const boxes = app.graph.nodes.map(node => node.getBounding());
    const side = (pick, edge) => pick(...boxes.map(edge));
    const x = side(Math.min, box => box[0]), y = side(Math.min, box => box[1]);
    Object.assign(app.canvas.ds, { scale: 1, offset: [left - x, top - y] });
    app.canvas.setDirty(true, true);
    return [side(Math.max, box => box[0] + box[2]) - x, side(Math.max, box => box[1] + box[3]) - y];
}"""
SAVED = "() => JSON.stringify(app.graph.serialize())"
SHOWN = """runs => app.graph.nodes.every(({ type, imgs }) => imgs?.[0]?.complete || !(type === "LoadImage"
    || runs && type.includes("Preview") && type !== "PreviewAny"))"""
MARK = """type => app.graph.nodes.filter(node => node.type === type).forEach(
    node => Object.assign(node, { color: "#233", bgcolor: "#355" }))"""


class Refused(Exception):
    """Why no picture was drawn, as one sentence."""


def read_graph(file: Path) -> dict:
    """The graph that an image file holds."""
    return json.loads(Image.open(file).info["workflow"])


def graph_file(file: Path) -> dict:
    """The graph that the front end saved in a file."""
    try:
        graph = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise Refused(f"{file} does not exist") from None
    except (OSError, ValueError):
        raise Refused(f"{file} is not a graph: save one with Workflow > Export") from None
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list):
        raise Refused(f"{file} is in API form: save it with Workflow > Export")
    return graph


def wanted_graph(argument: str) -> tuple[str, dict]:
    """The node's id and the graph that ID or ID=GRAPH.json names."""
    name, _, file = argument.partition("=")
    if file:
        return name, graph_file(Path(file))
    try:
        return name, read_graph(DOCS / f"{name}.png")
    except FileNotFoundError:
        raise Refused(f"{name} has no picture yet: give {name}=GRAPH.json") from None
    except (OSError, KeyError):
        raise Refused(f"the picture of {name} holds no graph: give {name}=GRAPH.json") from None


def models(graph: dict) -> list[str]:
    """The model files that a graph names, without the bundled ones."""
    values = [value for node in graph["nodes"] for value in node.get("widgets_values") or ()]
    return [value for value in values if str(value).endswith(MODEL_ENDINGS) and value not in BUNDLED]


def make_server(base: Path) -> Server:
    """A server whose input folder holds a face for Load Image."""
    write_settings(base, PLAIN)
    server = Server(base)
    face = Image.open(FACE)
    face.crop((face.width // 2, 0, face.width, face.height)).save(base / "input" / "photo.png")
    (base / "input" / "faces").mkdir()
    return server


def place_models(server: Server, graphs: Iterable[dict]) -> None:
    """Empty files under the names of all models, so that the loaders list them."""
    for name in {name for graph in graphs for name in models(graph)}:
        server.touch_model(name)


def draw_graph(page, name: str, graph: dict) -> tuple[Image.Image, dict]:
    """Image of a graph, with the node of the help page in another color, and the graph as the front end saves it."""
    page.evaluate(LOAD, graph)
    runs = not models(graph)
    if runs:
        page.evaluate(RUN)
    page.wait_for_function(SHOWN, arg=runs)
    saved = json.loads(page.evaluate(SAVED))
    page.evaluate(MARK, name)
    for _ in range(2):  # nodes that show an image grow when they are drawn
        width, height = page.evaluate(FRAME, CORNER)
        page.wait_for_timeout(500)
    shot = page.screenshot(clip={"x": CORNER[0] - MARGIN, "y": CORNER[1] - MARGIN, "width": width + 2 * MARGIN,
                                 "height": height + 2 * MARGIN})
    return Image.open(io.BytesIO(shot)).convert("RGB"), saved


def save_picture(image: Image.Image, graph: dict, path: Path) -> None:
    """A PNG with the graph in it: the front end reads graphs from PNG files of every version of the host."""
    info = PngInfo()
    info.add_text("workflow", json.dumps(graph, separators=(",", ":")))
    few = image.quantize(COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # keeps greys and label maps
    few.save(path, optimize=True, pnginfo=info)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="devtools.help_pictures", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", default=[], metavar="ID[=GRAPH.json]", help="default: every picture")
    wanted = parser.parse_args(arguments).wanted or [path.stem for path in DOCS.glob("MDiT_*.png")]
    try:
        graphs = dict(wanted_graph(argument) for argument in sorted(wanted))
    except Refused as reason:
        print(f"help_pictures: {reason}", file=sys.stderr)
        return 2
    draw_pictures(graphs)
    return 0


def draw_pictures(graphs: dict[str, dict]) -> None:
    """Draw the graphs in one browser and save the image of each under its node's id."""
    with tempfile.TemporaryDirectory(prefix="mditface-help-") as base, make_server(Path(base)) as server:
        place_models(server, graphs.values())
        info = server.object_info()
        with open_front_end(server.url) as page:
            page.set_viewport_size({"width": 1400, "height": 2000})
            for name, graph in graphs.items():
                bundled.set_up_model(graph, info)
                image, saved = draw_graph(page, name, graph)
                save_picture(image, saved, DOCS / f"{name}.png")
                print(f"{name:32}{(DOCS / f'{name}.png').stat().st_size / 1024:6.1f} KiB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
