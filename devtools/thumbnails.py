"""Draw the thumbnails of templates: each template runs, and the first image that it saves becomes its thumbnail.

A template of full-size models runs on the tiny ones of the end-to-end tests, so its thumbnail shows noise: a person may
replace it. A thumbnail holds a digest of the graph that drew it. Only missing thumbnails are drawn, and those whose
digest is that of another graph; a thumbnail without a digest was made by hand and stays.
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image, ImageOps

from devtools.node_info import ROOT
from devtools.server import NodeError, Server

GRAPHS = ROOT / "example_workflows"
PROBES = ROOT / "tests" / "e2e" / "probe_nodes"  # the nodes that stand in for parts of full-size models
SIDE = 400  # pixels
SIGN = "graph "  # begins the comment that holds the digest


def compute_graph_digest(graph: dict) -> str:
    """Digest of a graph in API form; the order of its keys does not count."""
    return hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()


def read_drawn_digest(thumbnail: Path) -> str | None:
    """Digest of the graph that drew a thumbnail, None for one that was made by hand."""
    with Image.open(thumbnail) as image:
        comment = image.info.get("comment", b"").decode("utf-8", "replace")
    return comment.removeprefix(SIGN) if comment.startswith(SIGN) else None


def list_outdated(folder: Path = GRAPHS) -> list[str]:
    """Names of the templates whose thumbnail is missing or drawn from another graph."""
    names = []
    for file in sorted((folder / "api").glob("*.json")):
        thumbnail = folder / f"{file.stem}.jpg"
        drawn = read_drawn_digest(thumbnail) if thumbnail.is_file() else ""
        if drawn is not None and drawn != compute_graph_digest(json.loads(file.read_text("utf-8"))):
            names.append(file.stem)
    return names


def save_thumbnail(image: Image.Image, graph: dict, path: Path) -> None:
    """A square JPEG that holds the digest of its graph."""
    square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    square.save(path, quality=88, optimize=True, comment=(SIGN + compute_graph_digest(graph)).encode())


def draw_thumbnail(server: Server, graph: dict) -> Image.Image:
    """The first image that a graph in API form saves or shows, on tiny models where it names full-size ones."""
    from mditface.tests.e2e import stand_ins
    graph = stand_ins.runnable(graph)
    return server.picture(server.run(graph)["outputs"][find_shown(graph)[0]]["images"][0])


def find_shown(graph: dict) -> list[str]:
    """The nodes of a graph in API form that save images, or those that show them where none saves."""
    by_kind = [[key for key, node in graph.items() if node["class_type"] == kind]
               for kind in ("SaveImage", "PreviewImage")]
    return next(filter(None, by_kind))


def renew(base: Path, folder: Path = GRAPHS) -> list[str]:
    """Draw the thumbnails that are missing or outdated; one line for each template that cannot run.

    devtools.host must have loaded the pack. `base` is an empty folder for the server's files.
    """
    names = list_outdated(folder)
    if not names:
        return []
    from mditface.tests.e2e import stand_ins
    lines = []
    with Server(base, packs=[PROBES]) as server:
        stand_ins.write_files(server, ROOT / "tests" / "golden")
        for name in names:
            graph = json.loads((folder / "api" / f"{name}.json").read_text("utf-8"))
            try:
                save_thumbnail(draw_thumbnail(server, graph), graph, folder / f"{name}.jpg")
            except (NodeError, StopIteration) as error:
                lines.append(f"template {name} does not run here ({error}): make its thumbnail by hand")
    return lines
