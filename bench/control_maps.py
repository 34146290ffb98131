"""How well 'Build Control Maps' finds depth and normals, on held-out renders, whose relief the rasterizer knows.

    python dev.py bench control_maps [--count 400] [--size 256] [--weights FILE] [--sheet FILE.png] [--maps FILE ...]

depth_error          mean error after the best scale and shift, as a share of the figure's range of depth
normal_angle_face    mean angle between normals on skin and nose, in degrees
normal_angle_figure  the same on the whole figure
baseline_...         the same for the mean depth and normal of each class
crude_..._ratio      how much larger the errors are for crude polygons: the renders nearest the ten painted masks
seconds              of one 1024 px label map, CPU time of one thread

The renders have a seed that training does not use. The last line printed is one JSON object.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import comfy.utils
from mditface.mdit.datasets.crude import draw_crude
from mditface.mdit.datasets.reliefs import ReliefBatch, Reliefs
from mditface.mdit.evaluation.metrics.agreement import average_scores
from mditface.mdit.evaluation.metrics.relief import measure_relief
from mditface.mdit.labelmap import AUTO, CLASSES, resize_nearest, swap_sides, to_image, to_indices
from mditface.mdit.relief.host import WEIGHTS, PatchedRelief, load_relief
from mditface.mdit.relief.light import light_relief

from .quality import measure
from .quality.painted import list_painted_masks

HELD_OUT_SEED = 2
LARGE = 1024  # pixels of the map that is timed
ROUNDS = 5
SHEET_SIZE = 192
SHEET_RENDERS = 10
EXAMPLES = Path(measure.ROOT, "mdit", "labelmap", "examples")
PARSED = Path(__file__).parent / "quality" / "parsed"  # portraits' label maps as a parser finds them
MEASURES = ("depth_error", "normal_angle_face", "normal_angle_figure")
GATES = {  # the value to reach, and the aim; lower is better
    "depth_error": (0.035, 0.02), "normal_angle_face": (8.5, 6.0), "normal_angle_figure": (14.0, 10.0),
    **{f"crude_{name}_ratio": (1.5, 1.2) for name in MEASURES}, "seconds": (0.5, 0.2), "megabytes": (4.0, 2.0),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench control_maps", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--count", type=int, default=400, help="held-out renders (default: 400)")
    add("--size", type=int, default=256, help="pixels of their sides (default: 256)")
    add("--workers", type=int, default=os.cpu_count(), help="processes that render (default: one a core)")
    add("--weights", type=Path, default=WEIGHTS, help="default: the bundled weights")
    add("--sheet", type=Path, help="write an image of renders, painted, parsed and example maps into this file")
    add("--maps", type=Path, nargs="*", default=[], help="further label maps for the sheet, in any palette")
    options = parser.parse_args(argv)
    for name in ("count", "size", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    comfy.utils.set_progress_bar_enabled(False)
    relief = load_relief(args.weights)
    renders = Reliefs(measure.draw_renders(HELD_OUT_SEED, args.size, args.count, args.workers, relief=True))
    values = score_maps(relief, renders, torch.arange(len(renders)))
    baseline = score_baseline(renders)
    nearest = find_nearest_renders(renders)
    plain = score_maps(relief, renders, nearest)
    crude = score_maps(relief, renders, nearest, draw_crude)
    values |= {f"crude_{name}_ratio": crude[name] / plain[name] for name in MEASURES}
    values |= {"seconds": time_maps(relief, renders.labels[0]), "megabytes": args.weights.stat().st_size / 1e6}
    if args.sheet:
        draw_relief_sheet(args.sheet, relief, renders, args.maps)
    print_values(values, baseline)
    print(json.dumps({"bench": "control_maps", "count": len(renders), "size": args.size, **values,
                      **{f"baseline_{name}": value for name, value in baseline.items()},
                      **{f"crude_{name}": value for name, value in crude.items()}}))


def score_maps(relief: PatchedRelief, renders: Reliefs, index: Tensor, change=None) -> dict[str, float]:
    """Mean measures of some renders. change: what is done to their label maps (S, S) uint8 first."""
    scores = []
    for i in tqdm(index.tolist(), "renders" if change is None else "crude polygons"):
        sample = renders.get_batch(torch.tensor([i]))
        labels = sample.labels[0]
        shown = labels if change is None else torch.from_numpy(change(labels.numpy()))
        depth, normals, _ = relief.find_relief(shown)
        scores.append(score_one(depth, normals, sample, torch.where(shown > 0, labels, 0)))
    return average_scores(scores)


def score_one(depth: Tensor, normals: Tensor, sample: ReliefBatch, labels: Tensor) -> dict[str, float]:
    return measure_relief(depth, normals, sample.depth[0], sample.normals[0], labels)


def score_baseline(renders: Reliefs) -> dict[str, float]:
    """Mean measures of the mean depth and normal of each class."""
    sums = torch.zeros(len(CLASSES), 5, dtype=torch.double)  # depth, normal, pixels
    samples = [renders.get_batch(torch.tensor([i])) for i in range(len(renders))]
    for sample in samples:
        known = sample.depth[0].isfinite()
        values = torch.cat([sample.depth, sample.normals[0], torch.ones_like(sample.depth)])[:, known]  # (5, N)
        sums.index_add_(0, sample.labels[0][known].long(), values.T.double())
    means = (sums / sums[:, 4:].clamp(min=1)).float()
    scores = []
    for sample in samples:
        found = means[sample.labels[0].long()].permute(2, 0, 1)  # (5, S, S)
        normals = torch.nn.functional.normalize(found[1:4], dim=0)
        scores.append(score_one(found[0], normals, sample, sample.labels[0]))
    return average_scores(scores)


def find_nearest_renders(renders: Reliefs) -> Tensor:
    """The render, by its number, that shares most pixels with each painted mask."""
    masks = list_painted_masks()
    labels = torch.from_numpy(np.stack([mask.labels for mask in masks]))
    labels = resize_nearest(labels, *renders.labels.shape[1:])
    labels = [swap_sides(one) if mask.swapped else one for mask, one in zip(masks, labels)]
    return torch.stack([(renders.labels == one).float().mean((1, 2)).argmax() for one in labels])


def time_maps(relief: PatchedRelief, labels: Tensor) -> float:
    """Median of the CPU seconds of one large label map on one thread."""
    large = resize_nearest(labels[None], LARGE, LARGE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spans = []
    for _ in range(ROUNDS):
        start = time.process_time()
        relief.build_maps(large)
        spans.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return statistics.median(spans)


def draw_relief_sheet(path: Path, relief: PatchedRelief, renders: Reliefs, files: list[Path]) -> None:
    """Columns of label map, depth, normals, lines, and the relief lit from the side."""
    found = [renders.labels[:SHEET_RENDERS]]
    found += [torch.from_numpy(mask.labels)[None] for mask in list_painted_masks()]
    found += [read_map(file) for file in (*sorted(PARSED.glob("*.png")), *sorted(EXAMPLES.glob("*.png")), *files)]
    columns = [draw_column(relief, labels[None]) for group in found for labels in group]
    lines = [torch.cat(columns[i:i + SHEET_RENDERS], dim=1) for i in range(0, len(columns), SHEET_RENDERS)]
    width = max(line.shape[1] for line in lines)
    lines = [torch.nn.functional.pad(line, (0, 0, 0, width - line.shape[1])) for line in lines]
    Image.fromarray((torch.cat(lines) * 255).round().byte().numpy()).save(path)


def read_map(file: Path) -> Tensor:
    """The label maps (1, H, W) of an image file."""
    pixels = np.asarray(Image.open(file).convert("RGB")) / np.float32(255)
    return to_indices(torch.from_numpy(pixels)[None], AUTO)


def draw_column(relief: PatchedRelief, labels: Tensor) -> Tensor:
    """The images of a label map (1, H, W) below each other, (5 S, S, 3)."""
    labels = resize_nearest(labels, SHEET_SIZE, SHEET_SIZE)
    maps = relief.build_maps(labels)
    lit = light_relief(maps.normals.permute(0, 3, 1, 2) * 2 - 1, labels > 0)
    return torch.cat([to_image(labels)[0], maps.depth[0], maps.normals[0], maps.lines[0], lit[0]])


def print_values(values: dict[str, float], baseline: dict[str, float]) -> None:
    """A line for each value, its gate and aim, and whether the gate holds."""
    print(f"{'measure':32s} {'value':>8s} {'gate':>6s} {'aim':>6s} {'baseline':>8s}")
    for name, value in values.items():
        gate, aim = GATES[name]
        found = "aim reached" if value <= aim else "passed" if value <= gate else "MISSED"
        other = f"{baseline[name]:8.3f}" if name in baseline else " " * 8
        print(f"{name:32s} {value:8.4f} {gate:>6} {aim:>6} {other} {found}")


if __name__ == "__main__":
    main()
