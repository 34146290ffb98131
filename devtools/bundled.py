"""What saved graphs and texts say of the bundled model and its judge, written after the headers of their files.

Whoever replaces one of the files runs `python dev.py renew`; docs/training/bundled.md lists what is left to do.
"""
from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from devtools.node_info import ROOT, inputs
from devtools.saved_graphs import list_files, list_parts, read_graph, write_graph
from mdit.mditface.config import MDiTConfig
from mdit.parsing import ParserConfig

MODEL = ROOT / "mdit" / "mditface" / "weights" / "mditface-demo.safetensors"
JUDGE = ROOT / "mdit" / "parsing" / "weights" / "face-parser.safetensors"
LOADER, EMPTY_LATENT = "MDiT_LoadModel", "EmptyLatentImage"
GUIDANCE = {"MDiT_Sampler": {3: "cfg", 4: "mask_cfg"},  # places of widgets, and the inputs that they belong to
            "MDiT_DualGuider": {0: "text_scale", 1: "mask_scale"}}


class Figure(NamedTuple):
    """A number in a text. Its pattern has one group, the number; `name` is that of its value in `measure_files`."""
    file: str
    pattern: str
    name: str


NUMBER = r"([\d.]*\d)"
FIGURES = (
    Figure("README.md", rf"the bundled model, {NUMBER} px", "size"),
    Figure("README.md", rf"\| bundled, {NUMBER} px, synthetic faces", "size"),
    Figure("README.md", rf"The bundled model \({NUMBER} MB\)", "whole megabytes"),
    Figure("docs/systems/mditface.md", rf"`mditface-demo.safetensors` \({NUMBER} MB\)", "whole megabytes"),
    Figure("docs/systems/mditface.md", rf"The bundled model draws {NUMBER} px faces", "size"),
    Figure("docs/design/bundled-model.md", rf"draws computer-rendered faces of {NUMBER} px", "size"),
    Figure("docs/model-card.md", rf"\| Size \| {NUMBER} M parameters", "parameters"),
    Figure("docs/model-card.md", rf"\| Size \|[^|]* {NUMBER} MB \|", "megabytes"),
    Figure("docs/model-card.md", rf"\| Size \|[^|]*\| {NUMBER} M parameters", "judge's parameters"),
    Figure("docs/model-card.md", rf"\| Size \|[^|]*\|[^|]* {NUMBER} MB \|", "judge's megabytes"),
    Figure("docs/model-card.md", rf"\| Image size \| {NUMBER} px", "size"),
    Figure("docs/model-card.md", rf"\| Image size \|[^|]*\| {NUMBER} px", "judge's size"),
    Figure("web/docs/MDiT_LoadFaceParser.md", rf"bundled \| {NUMBER} x", "judge's size"),
    Figure("web/docs/MDiT_LoadFaceParser.md", rf"bundled \| \d+ x {NUMBER} pixels", "judge's size"),
    Figure("web/docs/MDiT_LoadFaceParser/zh.md", rf"face-parser.safetensors` \| {NUMBER} x", "judge's size"),
    Figure("web/docs/MDiT_LoadFaceParser/zh.md", rf"face-parser.safetensors` \| \d+ x {NUMBER} ", "judge's size"),
)


def read_model_size() -> int:
    """Side in pixels of the images that the bundled model draws."""
    return MDiTConfig.from_metadata(read_metadata(MODEL)).resolution


def read_judge_size() -> int:
    """Side in pixels of the images that the bundled parser reads."""
    return ParserConfig.from_metadata(read_metadata(JUDGE)).size


def read_metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}


def count_parameters(file: Path) -> int:
    with safe_open(file, "pt") as opened:
        return sum(prod(opened.get_slice(name).get_shape()) for name in opened.keys())


# Graphs


def update_graphs(info: dict[str, dict], root: Path = ROOT) -> None:
    """Write each saved graph that draws with the bundled model in another size, or by other guidance, than the model's.

    info: the nodes by id, whose defaults are the model's guidance.
    """
    for file in list_files(root):
        graph = read_graph(file)
        set_up_model(graph, info)
        if graph != read_graph(file):
            write_graph(file, graph)


def set_up_model(graph: dict, info: dict[str, dict]) -> None:
    """Give the nodes around the bundled model its size and guidance."""
    for part in list_parts(graph):
        if any(node["type"] == LOADER and MODEL.name in node["widgets_values"] for node in part["nodes"]):
            set_up_part(part, info)


def set_up_part(part: dict, info: dict[str, dict]) -> None:
    for node in part["nodes"]:
        if node["type"] == EMPTY_LATENT:
            node["widgets_values"][:2] = [read_model_size()] * 2
        for place, name in GUIDANCE.get(node["type"], {}).items():
            node["widgets_values"][place] = find_default(info[node["type"]], name)


def find_default(described: dict, name: str) -> float:
    """Default of an input."""
    return next(options["default"] for found, _, _, options in inputs(described["input"]) if found == name)


# Texts


def measure_files() -> dict[str, str]:
    """What texts say of the two files, by name: pixels, millions of parameters, megabytes."""
    return {
        "size": str(read_model_size()),
        "parameters": f"{count_parameters(MODEL) / 1e6:.1f}",
        "megabytes": f"{MODEL.stat().st_size / 1e6:.1f}",
        "whole megabytes": f"{MODEL.stat().st_size / 1e6:.0f}",
        "judge's size": str(read_judge_size()),
        "judge's parameters": f"{count_parameters(JUDGE) / 1e6:.1f}",
        "judge's megabytes": f"{JUDGE.stat().st_size / 1e6:.1f}",
    }


def update_texts(root: Path = ROOT) -> list[str]:
    """Write the figures into the texts; a line for each text that does not have its figure's sentence any more."""
    values = measure_files()
    lines = []
    for file, pattern, name in FIGURES:
        path = root / file
        text = path.read_text("utf-8")
        found = re.search(pattern, text)
        if found is None:
            lines.append(f"{file} does not tell the {name} any more: mend FIGURES in devtools/bundled.py")
            continue
        start, end = found.span(1)
        if text[start:end] != values[name]:
            path.write_text(text[:start] + values[name] + text[end:], "utf-8")
    return lines
