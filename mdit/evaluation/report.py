"""The report of an evaluation: JSON, a Markdown table and a sheet of images."""
from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ..labelmap import PALETTE

SHEET_ROWS = 12
SHEET_BANDS = 3  # each band has a column of label maps, of generated images and of real images
TILE = 256  # pixels at most along a side
DIRECTIONS = {"fid": "lower is better", "kid": "x 1000, lower is better", "cmmd": "x 1000, lower is better",
              "text": "cosine x logit scale, higher is better",
              "structure": "per image, lower is better; peers publish 64 times as much"}
LABEL_ROWS = {"pixel_accuracy": "pixel accuracy", "mean_iou": "mean IoU, absent classes count 1",
              "mean_iou_present": "mean IoU of the asked classes"}


class Row(NamedTuple):
    """A row of the table; `real` is None where a measure has no value for the real images."""
    title: str
    generated: float | None
    real: float | None

    def __str__(self) -> str:
        return f"| {self.title} | {format_number(self.generated)} | {format_number(self.real)} |"


def format_markdown(report: dict) -> str:
    """What was drawn how, and a Markdown table with the values for generated and for real images."""
    rows = make_measure_rows(report["measures"])
    rows += make_label_rows(**report["labels"])
    rows += make_attribute_rows(**report["attributes"])
    lines = [describe_run(report), "", "| measure | generated | real images |", "| --- | --- | --- |", *map(str, rows)]
    lines += [f"\n{name}: not measured, {reason}." for name, reason in report["skipped"].items()]
    return "\n".join(lines)


def describe_run(report: dict) -> str:
    """The model, the number of images and how they were drawn, in a sentence."""
    options = report["options"]
    model = Path(report["model"]).name
    if report["adapter"]:
        model = f"{Path(report['adapter']).name} on {model}"
    return (f"{model}: {report['count']} images of {report['size']} px, {options['steps']} steps of "
            f"{options['sampler_name']} ({options['scheduler']}), guidance {options['cfg']:g} for the text and "
            f"{options['mask_cfg']:g} for the mask, seed {options['seed']}, token reduction "
            f"{options['token_reduction']}.")


def make_measure_rows(measures: dict[str, dict[str, float]]) -> list[Row]:
    return [Row(f"{name} ({DIRECTIONS[name]})", value["generated"], value.get("real"))
            for name, value in measures.items()]


def make_label_rows(generated: dict, real: dict) -> list[Row]:
    rows = [Row(title, generated[name], real[name]) for name, title in LABEL_ROWS.items()]
    return rows + [Row(f"IoU {name}", value, real["class_iou"][name]) for name, value in generated["class_iou"].items()]


def make_attribute_rows(generated: dict, real: dict) -> list[Row]:
    return [Row(f"{name} ({value['count']})", value["accuracy"], real.get(name, {}).get("accuracy"))
            for name, value in generated.items()]


def format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def draw_sheet(faces: Iterable[tuple[np.ndarray, Tensor, Tensor]]) -> Image.Image:
    """Label maps, generated and real images in columns.

    faces: (generated image (S, S, 3), real image (3, S, S), labels (S, S)) triples.
    """
    palette = np.array(PALETTE, np.uint8)
    strips = []
    for generated, real, labels in itertools.islice(faces, SHEET_ROWS * SHEET_BANDS):
        tiles = [palette[labels.numpy()], generated, real.permute(1, 2, 0).numpy()]
        strips.append(np.concatenate(tiles, axis=1))
    height = max(1, len(strips) // SHEET_BANDS)
    columns = [np.concatenate(strips[i:i + height]) for i in range(0, len(strips) - height + 1, height)]
    whole = Image.fromarray(np.concatenate(columns, axis=1))
    scale = min(1.0, TILE / strips[0].shape[0])
    return whole.resize([round(side * scale) for side in whole.size], Image.Resampling.LANCZOS)


def write_report(out: Path, report: dict, faces: Iterable[tuple[np.ndarray, Tensor, Tensor]]) -> str:
    """Writes report.json, report.md and sheet.png into a folder. Returns the table."""
    table = format_markdown(report)
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(table + "\n")
    draw_sheet(faces).save(out / "sheet.png")
    return table
