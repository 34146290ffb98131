"""Draw the minimal graph of each help page again, as the front end shows it; the picture holds the graph.

    python dev.py run -- python -m devtools.help_pictures [ID ...]
    python dev.py run -- python -m devtools.help_pictures ID=GRAPH.json ...

The graph comes out of the picture that is there, or, to change it, out of a file that the front end saved. A graph that
needs no other models than the bundled ones is run first, so that its picture shows what comes out.
"""
from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from devtools.browser import NO_WELCOME, front_end, write_settings
from devtools.server import ROOT, Server

DOCS = ROOT / "web" / "docs"
FACE = ROOT / "docs" / "demo-sheet.png"  # its right half is a face, for graphs that begin with a picture
BUNDLED = ("mditface-demo.safetensors", "face-parser.safetensors")
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
COLOURS = 64
MARGIN = 16  # pixels around the nodes
CORNER = (140, 140)  # where the graph begins on the page, right of the front end's own bars
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


def graph_in(picture: Path) -> dict:
    """The graph that a picture holds."""
    return json.loads(Image.open(picture).info["workflow"])


def models(graph: dict) -> list[str]:
    """The model files that a graph names, the bundled ones left out."""
    values = [value for node in graph["nodes"] for value in node.get("widgets_values") or ()]
    return [value for value in values if str(value).endswith(ENDINGS) and value not in BUNDLED]


def prepare(base: Path) -> Server:
    """A server with a face where Load Image looks for it."""
    write_settings(base, PLAIN)
    server = Server(base)
    face = Image.open(FACE)
    face.crop((face.width // 2, 0, face.width, face.height)).save(base / "input" / "photo.png")
    (base / "input" / "faces").mkdir()
    return server


def place_models(server: Server, graphs: Iterable[dict]) -> None:
    """Empty files under the names of all models, in all of the host's folders, for the loaders to list."""
    for folder in server.get("/models"):
        for name in {name for graph in graphs for name in models(graph)}:
            file = server.base / "models" / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def draw(page, name: str, graph: dict) -> tuple[Image.Image, dict]:
    """Picture of a graph, in which the node of the page has another colour, and the graph as it is saved now."""
    page.evaluate(LOAD, graph)
    runs = not models(graph)
    if runs:
        page.evaluate(RUN)
    page.wait_for_function(SHOWN, arg=runs)
    saved = json.loads(page.evaluate(SAVED))
    page.evaluate(MARK, name)
    for _ in range(2):  # nodes that show a picture grow when they are drawn
        width, height = page.evaluate(FRAME, CORNER)
        page.wait_for_timeout(500)
    shot = page.screenshot(clip={"x": CORNER[0] - MARGIN, "y": CORNER[1] - MARGIN, "width": width + 2 * MARGIN,
                                 "height": height + 2 * MARGIN})
    return Image.open(io.BytesIO(shot)).convert("RGB"), saved


def save(picture: Image.Image, graph: dict, path: Path) -> None:
    """A PNG, which every host hands out under a type that the front end reads graphs from."""
    info = PngInfo()
    info.add_text("workflow", json.dumps(graph, separators=(",", ":")))
    few = picture.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)  # keeps greys and label maps
    few.save(path, optimize=True, pnginfo=info)


def main(wanted: list[str]) -> int:
    given = dict(one.partition("=")[::2] for one in wanted) or {path.stem: "" for path in DOCS.glob("MDiT_*.png")}
    graphs = {name: json.loads(Path(file).read_text("utf-8")) if file else graph_in(DOCS / f"{name}.png")
              for name, file in sorted(given.items())}
    with tempfile.TemporaryDirectory(prefix="mditface-help-") as base, prepare(Path(base)) as server:
        place_models(server, graphs.values())
        with front_end(server.url) as page:
            page.set_viewport_size({"width": 1400, "height": 2000})
            for name, graph in graphs.items():
                save(*draw(page, name, graph), DOCS / f"{name}.png")
                print(f"{name:32}{(DOCS / f'{name}.png').stat().st_size / 1024:6.1f} KiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
