"""The report of an evaluation: JSON, a Markdown table and a sheet of pictures."""
from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..labelmap import PALETTE

SHEET_ROWS, SHEET_BANDS = 12, 3  # each band has a column of label maps, of pictures and of real pictures
TILE = 256  # pixels at most along a side
ARROWS = {"fid": "lower is better", "kid": "x 1000, lower is better", "cmmd": "x 1000, lower is better",
          "text": "cosine x logit scale, higher is better",
          "structure": "per picture, lower is better; peers publish 64 times as much"}


def markdown(report: dict) -> str:
    """The report as a Markdown table: every measure, beside it the real pictures' value where there is one."""
    rows = [(f"{name} ({ARROWS[name]})", value["generated"], value.get("real"))
            for name, value in report["measures"].items()]
    generated, real = report["labels"]["generated"], report["labels"]["real"]
    rows += [(title, generated[name], real[name]) for name, title in (
        ("pixel_accuracy", "pixel accuracy"), ("mean_iou", "mean IoU, absent classes count 1"),
        ("mean_iou_present", "mean IoU of the asked classes"))]
    rows += [(f"IoU {name}", value, real["class_iou"][name]) for name, value in generated["class_iou"].items()]
    truth = report["attributes"]["real"]
    rows += [(f"{name} ({value['count']})", value["accuracy"], truth.get(name, {}).get("accuracy"))
             for name, value in report["attributes"]["generated"].items()]
    lines = ["| measure | generated | real pictures |", "| --- | --- | --- |"]
    lines += [f"| {name} | {number(a)} | {number(b)} |" for name, a, b in rows]
    lines += [f"\n{name}: not measured, {reason}." for name, reason in report["skipped"].items()]
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def sheet(faces: Iterable[tuple[np.ndarray, Tensor, Tensor]]) -> Image.Image:
    """Label maps, pictures and real pictures in columns, of (picture, image (3, S, S), labels (S, S)) triples."""
    palette = np.array(PALETTE, np.uint8)
    strips = [np.concatenate([palette[labels.numpy()], picture, image.permute(1, 2, 0).numpy()], axis=1)
              for picture, image, labels in itertools.islice(faces, SHEET_ROWS * SHEET_BANDS)]
    height = max(1, len(strips) // SHEET_BANDS)
    columns = [np.concatenate(strips[i:i + height]) for i in range(0, len(strips) - height + 1, height)]
    whole = Image.fromarray(np.concatenate(columns, axis=1))
    scale = min(1.0, TILE / strips[0].shape[0])
    return whole.resize([round(side * scale) for side in whole.size], Image.Resampling.LANCZOS)


def write_report(out: Path, report: dict, faces: Iterable[tuple[np.ndarray, Tensor, Tensor]]) -> str:
    """Writes report.json, report.md and sheet.png into a folder; returns the table."""
    table = markdown(report)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(table + "\n")
    sheet(faces).save(out / "sheet.png")
    return table
