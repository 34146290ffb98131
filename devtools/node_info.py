"""The pack's nodes as /object_info describes them, and what follows from that description alone."""
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parents[1]
MODULE = "custom_nodes.mditface"


class Slot(NamedTuple):
    """An input or output of a node."""
    name: str
    kind: str  # type of the socket or widget
    tooltip: str
    default: str = ""
    limits: str = ""


def own(info: dict[str, dict]) -> dict[str, dict]:
    """The pack's nodes from /object_info, by id."""
    return {name: node for name, node in sorted(info.items()) if node["python_module"] == MODULE}


def read_pack() -> dict[str, dict]:
    """The nodes of the pack that devtools.host has loaded into this process, by id, in the order of their registration.

    Each is what /object_info holds, and in addition `file`, the stem of its module, and `class_name`.
    """
    from mditface.nodes import NODES
    info = {}
    for node in NODES:
        described = json.loads(json.dumps(node.GET_NODE_INFO_V1()))
        file = node.__module__.rpartition(".")[2]
        info[described["name"]] = described | {
            "python_module": MODULE, "file": file, "class_name": node.__name__}
    return info


def inputs(groups: dict, prefix: str = "") -> Iterator[tuple[str, str, str, dict]]:
    """(name, type, required or optional, options) of each input, those of a dynamic combo's choices after it."""
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            options = options[0] if options else {}
            yield prefix + name, kind if isinstance(kind, str) else "COMBO", group, options
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for choice in options["options"]:
                    yield from inputs(choice["inputs"], f"{prefix}{name}.")


def list_input_slots(node: dict) -> list[Slot]:
    """The inputs of a node, each name once."""
    slots = {}
    for name, kind, _, options in inputs(node["input"]):
        if kind == "COMFY_AUTOGROW_V3":
            (inner,) = options["template"]["input"]["required"].values()
            kind = f"{inner[0]}, several"
        default = str(options.get("default", ""))
        meaning = options.get("tooltip") or options.get("meaning") or ""
        slots.setdefault(name, Slot(name, name_kind(kind), meaning, default, list_limits(options)))
    return list(slots.values())


def list_limits(options: dict) -> str:
    """The limits of a number and the steps of its widget."""
    kept = {key: options[key] for key in ("min", "max", "step", "round") if options.get(key) is not None}
    return ", ".join(f"{key} {value}" for key, value in kept.items())


def list_output_slots(node: dict) -> list[Slot]:
    tips = node["output_tooltips"] or [""] * len(node["output"])
    return [Slot(name, name_kind(kind), tip or "")
            for name, kind, tip in zip(node["output_name"], node["output"], tips)]


def name_kind(kind: str) -> str:
    """A type of the host in the words of its users."""
    return {"COMFY_DYNAMICCOMBO_V3": "COMBO", "*": "any"}.get(kind, kind.replace(",", " or "))


def cell(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
