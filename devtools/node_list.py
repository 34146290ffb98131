"""The page docs/nodes.md: every node of the pack with its inputs and outputs."""
from __future__ import annotations

import re
from collections.abc import Iterator

from devtools.node_info import ROOT, Slot, cell, list_input_slots, list_output_slots

PAGE = ROOT / "docs" / "nodes.md"
GROUPS = ("Start here", "Label maps", "Photographs", "Adapters (FLUX, SD3)", "Photo models", "InteractDiffusion",
          "Face-diffuser", "DynaST", "PT-DiT", "Training", "Advanced")  # the pack's categories in the host's menu
LONGEST_DEFAULT = 40  # characters; a longer default, such as a drawing, tells a reader nothing


def find_group(node: dict) -> str:
    """The group of a node: its category below the pack's, which is the heading under which it stands."""
    return node["category"].partition("/")[2]


def find_anchor(heading: str) -> str:
    """What GitHub makes of a heading in a link."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def page(nodes: dict[str, dict]) -> str:
    """The text of docs/nodes.md; `nodes` as devtools.node_info.read_pack returns them."""
    groups = {heading: [] for heading in GROUPS}
    for node in nodes.values():
        groups.setdefault(find_group(node), []).append(node)
    lines = ["# Nodes", "",
             f"The {len(nodes)} nodes of the pack. `python dev.py renew` writes this page from their schemas.", ""]
    for heading, group in groups.items():
        titles = ", ".join(f"*{node['display_name']}*" for node in group)
        lines.append(f"* [{heading}](#{find_anchor(heading)}): {titles}")
    for heading, group in groups.items():
        lines += ["", f"## {heading}"]
        for node in group:
            lines += section(node)
    return "\n".join(lines) + "\n"


def section(node: dict) -> Iterator[str]:
    name = node["name"]
    yield from ("", f"### {node['display_name']}", "", f"`{name}`: {cell(node['description'])}")
    yield from ("", f"Help page: [English](../web/docs/{name}.md), [Chinese](../web/docs/{name}/zh.md).")
    if slots := list_input_slots(node):
        yield from ("", "| Input | Type | Default | Meaning |", "| --- | --- | --- | --- |")
        yield from (f"| `{slot.name}` | {format_kind(slot)} | {format_default(slot)} | {cell(slot.tooltip)} |"
                    for slot in slots)
    if slots := list_output_slots(node):
        yield from ("", "| Output | Type | Meaning |", "| --- | --- | --- |")
        yield from (f"| `{slot.name}` | {cell(slot.kind)} | {cell(slot.tooltip)} |" for slot in slots)


def format_kind(slot: Slot) -> str:
    return cell(f"{slot.kind}: {slot.limits}" if slot.limits else slot.kind)


def format_default(slot: Slot) -> str:
    return f"`{cell(slot.default)}`" if 0 < len(slot.default) <= LONGEST_DEFAULT else ""
