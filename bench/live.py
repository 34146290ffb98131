"""From a stroke to its picture: a template in the real front end, with Live on and the bundled model.

    python dev.py bench live [--strokes 12] [--steps 6]

The time runs from the end of a stroke to the loaded picture beside the drawing: encoding of the drawing, queue,
sampling, saving, transfer. Server and browser share the machine's cores, so measure on quiet ones; the load is printed.
The last line is one JSON object: `stroke_to_picture_seconds` is the median, `size` the side of the picture in pixels.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from devtools.browser import NO_WELCOME, chromium, open_front_end, write_settings
from devtools.server import Server
from mditface.mdit.labelmap import CLASSES

from .bundled import LIVE_STEPS

TEMPLATE = Path(__file__).parents[1] / "example_workflows" / "2 Paint a face, all nodes.json"
GATE_S = 1.5
WAIT_MS = 300_000
OPEN = """async ([graph, steps]) => {
    await app.loadGraphData(graph);
    for (const node of app.graph.nodes) {
        const widget = node.widgets?.find(({ name }) => name === "steps");
        if (widget) widget.value = steps;
    }
    const [x, y] = app.graph.nodes.find(({ type }) => type === "MDiT_PaintLabelMap").pos;
    Object.assign(app.canvas.ds, { scale: 1, offset: [120 - x, 120 - y] });
    app.canvas.setDirty(true, true);
}"""
SHOWS_ANOTHER = """before => {
    const roots = [...document.querySelectorAll("*")].map(host => host.shadowRoot).filter(Boolean);
    const image = roots.map(root => root.querySelector(".picture img")).find(Boolean);
    const { src, complete, naturalWidth } = image;
    return src.includes("/view?") && src !== before && complete && naturalWidth ? { src, size: naturalWidth } : false;
}"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench live", description=__doc__.partition("\n")[0])
    parser.add_argument("--strokes", type=int, default=12, help="strokes that count (default: 12)")
    parser.add_argument("--steps", type=int, default=LIVE_STEPS, help=f"of the sampler (default: {LIVE_STEPS})")
    options = parser.parse_args(argv)
    for name in ("strokes", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if not chromium():
        raise SystemExit("bench live: there is no Chromium; python dev.py test fetches it")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        write_settings(Path(folder), NO_WELCOME)
        with Server(Path(folder)) as server, open_front_end(server.url) as page:
            size, seconds = measure(page, options.strokes, options.steps)
    median = statistics.median(seconds)
    print(f"{size} pixels, {options.steps} steps: {median:.2f} s from stroke to picture (gate {GATE_S} s), "
          f"{min(seconds):.2f} to {max(seconds):.2f} s; load {load:.1f} on {os.cpu_count()} cores")
    print(json.dumps({"bench": "live", "stroke_to_picture_seconds": median, "fastest_seconds": min(seconds),
                      "slowest_seconds": max(seconds), "strokes": len(seconds), "steps": options.steps, "size": size,
                      "load": load, "cores": os.cpu_count()}))


def measure(page, strokes: int, steps: int) -> tuple[int, list[float]]:
    """The picture's side in pixels, and the seconds of each stroke; the first two strokes warm up."""
    page.evaluate(OPEN, [json.loads(TEMPLATE.read_text()), steps])
    painter = page.locator(".painter")
    painter.locator("button[data-command='live']").click()
    painter.locator(f"label:has(input[value='{CLASSES.index('hat')}'])").click()  # hair on hair would change nothing
    shown = await_picture(page, None)
    canvas = painter.locator("canvas").bounding_box()
    seconds = []
    for number in range(strokes + 2):
        end = draw_stroke(page, canvas, number)
        shown = await_picture(page, shown["src"])
        seconds.append(time.monotonic() - end)
    return shown["size"], seconds[2:]


def draw_stroke(page, canvas: dict, number: int) -> float:
    """A piece of a hat, each time elsewhere; when the stroke ended."""
    x = canvas["x"] + canvas["width"] * (0.25 + 0.5 * (number % 7) / 7)
    y = canvas["y"] + canvas["height"] * (0.2 + 0.05 * (number % 5))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y + 40, steps=5)
    page.mouse.up()
    return time.monotonic()


def await_picture(page, before: str | None) -> dict:
    """Address and size of the next picture."""
    return page.wait_for_function(SHOWS_ANOTHER, arg=before, timeout=WAIT_MS, polling=20).json_value()


if __name__ == "__main__":
    main()
