"""The texts of the nodes in each language, by the keys under which the front end looks for them."""
from __future__ import annotations

import json
import re
from pathlib import Path

from devtools.node_info import ROOT, inputs, own

SOURCE = "en"  # follows from the nodes
TRANSLATIONS = ("zh",)  # written by people


def main_texts(info: dict[str, dict]) -> dict[str, dict]:
    """The part of main.json that follows from the nodes: their categories and the pack's own types."""
    nodes = own(info)
    categories = {part for node in nodes.values() for part in node["category"].split("/")}
    kinds = {kind for node in nodes.values() for kind in node["output"]}
    hosts = [node for node in info.values() if not node["python_module"].startswith("custom_nodes.")]
    host_kinds = {kind for node in hosts for kind in node["output"]}
    return {"nodeCategories": {part: part for part in sorted(categories)},
            "dataTypes": {kind: kind for kind in sorted(kinds - host_kinds)}}


def make_node_texts(info: dict[str, dict]) -> dict[str, dict]:
    """The file nodeDefs.json."""
    return {name: texts(node) for name, node in own(info).items()}


def texts(node: dict) -> dict:
    """Title, description, and the name and tooltip of each input and output."""
    slots = {}
    for name, _, _, options in inputs(node["input"]):
        shown = options.get("display_name") or name.rpartition(".")[2]
        tooltip = {"tooltip": options["tooltip"]} if options.get("tooltip") else {}  # an editor has none
        slots.setdefault(name.replace(".", "_"), {"name": escape_message(shown)} | tooltip)
    results = {}
    for index, (name, tooltip) in enumerate(zip(node["output_name"], node["output_tooltips"])):
        results[str(index)] = {"name": escape_message(name), "tooltip": tooltip}
    return {"display_name": escape_message(node["display_name"]), "description": escape_message(node["description"]),
            "inputs": slots, "outputs": results}


def escape_message(text: str) -> str:
    """A text for vue-i18n, which reads some signs of all texts but tooltips: these signs are quoted."""
    return re.sub(r"[{}@|]", r"{'\g<0>'}", text)


def flat(tree: dict, prefix: str = "") -> dict[str, str]:
    """Each text by its path of keys."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def locale(language: str, root: Path = ROOT) -> dict[str, dict]:
    """The files of a locale by their stems."""
    folder = root / "locales" / language
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}


def list_untranslated(language: str, root: Path = ROOT) -> list[str]:
    """One line for each text that a language lacks or has in excess."""
    source = flat(locale(SOURCE, root))
    translation = flat(locale(language, root))
    return ([f"{language} lacks {key}: {source[key]}" for key in source if not translation.get(key)]
            + [f"{language} has {key}, which is no text" for key in translation.keys() - source.keys()])
