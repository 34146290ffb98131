"""Draw one face with the real server and print its figures. Started by `python dev.py demo`."""
from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from devtools.host import load_pack
from devtools.server import NodeError, Server

ROOT = Path(__file__).absolute().parents[1]
GRAPH = ROOT / "example_workflows" / "api" / "2 Paint a face, all nodes.json"
EXAMPLE = ROOT / "mdit" / "labelmap" / "examples" / "woman.png"
SAMPLER = "MDiT_Sampler"


def find_node_of_class(graph: dict, class_type: str) -> str:
    """Id of the graph's only node of a class."""
    (node_id,) = (node_id for node_id, node in graph.items() if node["class_type"] == class_type)
    return node_id


def source(graph: dict, node_id: str, name: str) -> dict:
    """Inputs of the node that feeds an input."""
    return graph[graph[node_id]["inputs"][name][0]]["inputs"]


def fill_in(graph: dict, mask: str | None, prompt: str | None, seed: int) -> str:
    """Put the demo's settings into the bundled graph, with the sampler's report as an output; the sampler's id."""
    sampler = find_node_of_class(graph, SAMPLER)
    graph[sampler]["inputs"]["seed"] = seed
    if prompt is not None:
        source(graph, sampler, "positive")["text"] = prompt
    if mask is not None:
        graph["mask"] = {"class_type": "LoadImage", "inputs": {"image": mask}}
        graph[find_node_of_class(graph, "MDiT_MaskTokenizer")]["inputs"]["label_map"] = ["mask", 0]
    graph["report"] = {"class_type": "PreviewAny", "inputs": {"source": [sampler, 1]}}
    return sampler


class Steps:
    """A progress bar over the sampler's steps, and the time of each message."""

    def __init__(self, sampler: str):
        self.sampler = sampler
        self.bar = None
        self.times = []

    def __call__(self, kind: str, data) -> None:
        if kind != "progress" or data["node"] != self.sampler:
            return
        self.times.append((data["value"], time.monotonic()))
        self.bar = self.bar or tqdm(total=data["max"], desc="Drawing", unit="step")
        self.bar.update(data["value"] - self.bar.n)

    def close(self) -> None:
        if self.bar:
            self.bar.close()

    def compute_seconds_each(self) -> float:
        """Mean over the steps between the first and the last message; nan if there is only one message."""
        first, start = self.times[0]
        last, end = self.times[-1]
        return (end - start) / (last - first) if last > first else float("nan")


def draw_sheet(mask: Image.Image, face: Image.Image) -> Image.Image:
    """The label map and the face side by side, both in the size of the face."""
    both = Image.new("RGB", (2 * face.width, face.height))
    both.paste(mask.resize(face.size, Image.Resampling.NEAREST), (0, 0))
    both.paste(face, (face.width, 0))
    return both


def measure_face(mask: Image.Image, face: Image.Image) -> dict[str, float]:
    """How well the face follows the label map, as the bundled parser reads it."""
    load_pack(Path(tempfile.gettempdir()))
    from mditface.mdit import labelmap, parsing
    colors = np.asarray(mask.resize(face.size, Image.Resampling.NEAREST))  # (H, W, 3)
    label = labelmap.to_indices(torch.from_numpy(colors / 255.0)[None])[0]  # (H, W)
    return parsing.load_parser().measure_agreement(np.array(face), label.numpy())


def draw_face(options, base: Path) -> None:
    graph = json.loads(GRAPH.read_text())
    with Server(base) as server:
        mask = server.upload(options.mask) if options.mask else None
        steps = Steps(fill_in(graph, mask, options.prompt, options.seed))
        start = time.monotonic()
        entry = server.watch(graph, steps)
        seconds = time.monotonic() - start
        steps.close()
        face = server.image(entry)
    mask = Image.open(options.mask or EXAMPLE).convert("RGB")
    sheet_file = options.out.with_name(options.out.stem + "-sheet.png")
    face.save(options.out)
    draw_sheet(mask, face).save(sheet_file)
    score = measure_face(mask, face)
    for what, value in (
        ("image", options.out),
        ("sheet", sheet_file),
        ("seconds", f"{seconds:.2f}"),
        ("seconds per step", f"{steps.compute_seconds_each():.3f}"),
        ("cache", entry["outputs"]["report"]["text"][0]),
        ("label agreement", f"{score['pixel_accuracy']:.3f} of the pixels, mean IoU {score['mean_iou_present']:.3f}"),
    ):
        print(f"{what:17}{value}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument("--mask", type=Path)
    parser.add_argument("--prompt")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="mditface-demo-"))
    try:
        draw_face(options, base)
    except (NodeError, RuntimeError, OSError) as error:  # the base folder stays: the server's log lies there
        print(f"dev.py: {error}", file=sys.stderr)
        return 2
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
