"""Bring the saved graphs of the pack, templates and blueprints, up to the inputs and outputs that its nodes have now.

Slots that are new are appended, and slots whose type changed take the new type, as do their links and
the sockets of a subgraph.

A node gains inputs at the end of its schema only, so that widget values in the graphs of users keep their places.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from devtools.node_info import ROOT, inputs

FOLDERS = ("example_workflows", "subgraphs")
BOUNDARY = -10  # the front end's id of what feeds a subgraph's inputs
MATCHING = "COMFY_MATCHTYPE_V3"  # the host's name for slots that take the type of what is connected to them
ANY = "*"  # such a slot in saved graphs
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def update_slots(info: dict[str, dict], root: Path = ROOT) -> None:
    """Write each saved graph whose nodes have other inputs or outputs than in `info`, the nodes by id."""
    for file in list_files(root):
        graph = read_graph(file)
        *subgraphs, _ = parts = list_parts(graph)
        for part in parts:
            update_nodes(part, info)
        for subgraph in subgraphs:
            correct_boundary(subgraph)
        for part in parts:
            correct_links(part, subgraphs)
        if graph != read_graph(file):
            write_graph(file, graph)


def list_files(root: Path) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (root / folder).glob("*.json"))


def read_graph(file: Path) -> dict:
    return json.loads(file.read_text("utf-8"))


def write_graph(file: Path, graph: dict) -> None:
    file.write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n", "utf-8")


def list_parts(graph: dict) -> list[dict]:
    """What holds nodes: the subgraphs that a graph defines, and at last the graph itself."""
    return [*graph.get("definitions", {}).get("subgraphs", ()), graph]


def update_nodes(graph: dict, info: dict[str, dict]) -> None:
    for node in graph["nodes"]:
        if node["type"] in info:
            complete_node(node, info[node["type"]])
            correct_types(node, info[node["type"]])


def correct_boundary(subgraph: dict) -> None:
    """Give each socket of a subgraph the type of the slot that it is linked to inside."""
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    links = {link["id"]: link for link in subgraph["links"]}
    for slot in filter(itemgetter("linkIds"), subgraph["inputs"]):
        link = links[slot["linkIds"][0]]
        slot["type"] = carried_type(nodes[link["target_id"]]["inputs"][link["target_slot"]], link["type"])
    for slot in filter(itemgetter("linkIds"), subgraph["outputs"]):
        link = links[slot["linkIds"][0]]
        slot["type"] = carried_type(nodes[link["origin_id"]]["outputs"][link["origin_slot"]], link["type"])


def carried_type(slot: dict, saved: str) -> str:
    """The type of what passes through a slot, whose link has the type `saved`."""
    return saved if slot["type"] == ANY else slot["type"]


def correct_links(graph: dict, subgraphs: Sequence[dict]) -> None:
    """Give the nodes that stand for subgraphs their types, and each link the type of the slot that it comes from."""
    boundaries = {subgraph["id"]: subgraph for subgraph in subgraphs}
    for node in graph["nodes"]:
        if node["type"] in boundaries:
            copy_types(node, boundaries[node["type"]])
    outputs = {node["id"]: node["outputs"] for node in graph["nodes"]} | {BOUNDARY: graph.get("inputs")}
    for link in graph["links"]:
        origin, slot, kind = ("origin_id", "origin_slot", "type") if isinstance(link, dict) else (1, 2, 5)
        link[kind] = carried_type(outputs[link[origin]][link[slot]], link[kind])


def copy_types(node: dict, subgraph: dict) -> None:
    """Give the slots of a node the types of the sockets of the same name of its subgraph."""
    for side in ("inputs", "outputs"):
        kinds = {slot["name"]: slot["type"] for slot in subgraph[side]}
        for slot in node[side]:
            slot["type"] = kinds.get(slot["name"], slot["type"])


def complete_node(node: dict, described: dict) -> None:
    """Append what the node lacks, each widget with its default."""
    names = {slot["name"] for slot in node["inputs"]}
    missing = [(name, kind, group, options) for name, kind, group, options in inputs(described["input"])
               if name not in names and "." not in name and not kind.startswith("COMFY_")
               and not options.get("socketless")]
    for name, kind, group, options in missing:
        node["inputs"].append(make_input(name, kind, group))
        if kind in WIDGETS:
            node["widgets_values"].append(options["default"])
    outputs = list(zip(described["output_name"], output_types(described)))[len(node["outputs"]):]
    node["outputs"] += [{"name": name, "type": kind, "links": None} for name, kind in outputs]


def correct_types(node: dict, described: dict) -> None:
    """Give each slot the type that it has now. Slots that grow by use have a type of their own."""
    kinds = {name: kind for name, kind, _, _ in inputs(described["input"]) if not kind.startswith("COMFY_")}
    pairs = [(slot, kinds[slot["name"]]) for slot in node["inputs"] if slot["name"] in kinds]
    pairs += zip(node["outputs"], output_types(described))
    for slot, kind in pairs:
        slot["type"] = kind


def output_types(described: dict) -> list[str]:
    return [ANY if kind == MATCHING else kind for kind in described["output"]]


def make_input(name: str, kind: str, group: str) -> dict:
    slot = {"name": name, "type": kind, "link": None}
    if group == "optional":
        slot["shape"] = 7  # the front end's shape of an optional socket
    if kind in WIDGETS:
        slot["widget"] = {"name": name}
    return slot
