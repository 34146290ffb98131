"""What the pack lacks: help pages, pictures, thumbnails, templates and translations that a person has to make.

Each function returns one line for each thing that is missing, so that `dev.py renew` can print it and a test can fail.
`nodes` are the pack's nodes as /object_info describes them.
"""
from __future__ import annotations

import json
from pathlib import Path

from devtools.texts import TRANSLATIONS, flat, locale, node_texts


def files(root: Path, nodes: dict[str, dict], pattern: str, what: str) -> list[str]:
    """Files of a help page; the pattern's {} stands for the id of a node."""
    return [f"{name} has no {what}: {pattern.format(name)}" for name in nodes
            if not (root / pattern.format(name)).is_file()]


def english_pages(root: Path, nodes: dict[str, dict]) -> list[str]:
    return files(root, nodes, "web/docs/{}.md", "help page")


def chinese_pages(root: Path, nodes: dict[str, dict]) -> list[str]:
    return files(root, nodes, "web/docs/{}/zh.md", "Chinese help page")


def pictures(root: Path, nodes: dict[str, dict]) -> list[str]:
    return files(root, nodes, "web/docs/{}.png", "picture of its minimal graph")


def templates_of_nodes(root: Path, nodes: dict[str, dict]) -> list[str]:
    graphs = (json.loads(file.read_text("utf-8")) for file in template_files(root))
    used = {node["type"] for graph in graphs for node in graph["nodes"]}
    return [f"{name} stands in no template: example_workflows/*.json" for name in nodes if name not in used]


def template_files(root: Path) -> list[Path]:
    return sorted((root / "example_workflows").glob("*.json"))


def thumbnails(root: Path) -> list[str]:
    return [f"template {file.stem} has no thumbnail: example_workflows/{file.stem}.jpg"
            for file in template_files(root) if not file.with_suffix(".jpg").is_file()]


def twins(root: Path) -> list[str]:
    return [f"template {file.stem} has no graph in API form: example_workflows/api/{file.name}"
            for file in template_files(root) if not (file.parent / "api" / file.name).is_file()]


def translations(root: Path, nodes: dict[str, dict]) -> list[str]:
    """Texts of nodes that a translation lacks."""
    source = flat(node_texts(nodes))
    lines = []
    for language in TRANSLATIONS:
        translation = flat(locale(language, root)["nodeDefs"])
        lines += [f"{language} lacks nodeDefs.{key}: {text}" for key, text in source.items()
                  if text and not translation.get(key)]
    return lines


OF_NODES = (english_pages, chinese_pages, pictures, templates_of_nodes, translations)
OF_TEMPLATES = (thumbnails, twins)


def everything(root: Path, nodes: dict[str, dict]) -> list[str]:
    """One line for each thing that is missing."""
    lines = [line for find in OF_NODES for line in find(root, nodes)]
    return lines + [line for find in OF_TEMPLATES for line in find(root)]
