"""Bring the saved graphs of the pack, templates and blueprints, up to the inputs and outputs that its nodes have now.

Slots that are new are appended, and slots whose type changed take the new type.

A node gains inputs at the end of its schema only, so that widget values in the graphs of users keep their places.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from devtools.node_info import ROOT, inputs

FOLDERS = ("example_workflows", "subgraphs")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def update_slots(info: dict[str, dict], root: Path = ROOT) -> None:
    """Write each saved graph whose nodes have other inputs or outputs than in `info`, the nodes by id."""
    for file in sorted(path for folder in FOLDERS for path in (root / folder).glob("*.json")):
        graph = json.loads(file.read_text("utf-8"))
        ours = [(node, info[node["type"]]) for node in list_nodes(graph) if node["type"] in info]
        changed = [complete_node(node, described) | correct_types(node, described) for node, described in ours]
        if any(changed):
            file.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", "utf-8")


def list_nodes(graph: dict) -> Iterator[dict]:
    """The nodes of a graph and of its subgraphs."""
    yield from graph["nodes"]
    for subgraph in graph.get("definitions", {}).get("subgraphs", ()):
        yield from subgraph["nodes"]


def complete_node(node: dict, described: dict) -> bool:
    """Append what the node lacks, each widget with its default; whether anything was appended."""
    names = {slot["name"] for slot in node["inputs"]}
    missing = [(name, kind, group, options) for name, kind, group, options in inputs(described["input"])
               if name not in names and "." not in name and not kind.startswith("COMFY_")
               and not options.get("socketless")]
    for name, kind, group, options in missing:
        node["inputs"].append(make_input(name, kind, group))
        if kind in WIDGETS:
            node["widgets_values"].append(options["default"])
    outputs = list(zip(described["output_name"], described["output"]))[len(node["outputs"]):]
    node["outputs"] += [{"name": name, "type": kind, "links": None} for name, kind in outputs]
    return bool(missing or outputs)


def correct_types(node: dict, described: dict) -> bool:
    """Give each slot the type that it has now; whether any changed. Slots that grow by use have a type of their own."""
    kinds = {name: kind for name, kind, _, _ in inputs(described["input"]) if not kind.startswith("COMFY_")}
    pairs = [(slot, kinds[slot["name"]]) for slot in node["inputs"] if slot["name"] in kinds]
    pairs += zip(node["outputs"], described["output"])
    outdated = [(slot, kind) for slot, kind in pairs if slot["type"] != kind]
    for slot, kind in outdated:
        slot["type"] = kind
    return bool(outdated)


def make_input(name: str, kind: str, group: str) -> dict:
    slot = {"name": name, "type": kind, "link": None}
    if group == "optional":
        slot["shape"] = 7  # the front end's shape of an optional socket
    if kind in WIDGETS:
        slot["widget"] = {"name": name}
    return slot
