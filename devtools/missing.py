"""What the pack lacks: help pages, pictures, thumbnails, templates and translations that a person has to make.

Each function returns one line for each thing that is missing, so that `dev.py renew` can print it and a test can fail.
`nodes` are the pack's nodes as /object_info describes them.
"""
from __future__ import annotations

import json
from pathlib import Path

from devtools.texts import TRANSLATIONS, flat, locale, make_node_texts


def list_missing_files(root: Path, nodes: dict[str, dict], pattern: str, what: str) -> list[str]:
    """Files of a help page; the pattern's {} stands for the id of a node."""
    return [f"{name} has no {what}: {pattern.format(name)}" for name in nodes
            if not (root / pattern.format(name)).is_file()]


def list_english_pages(root: Path, nodes: dict[str, dict]) -> list[str]:
    return list_missing_files(root, nodes, "web/docs/{}.md", "help page")


def list_chinese_pages(root: Path, nodes: dict[str, dict]) -> list[str]:
    return list_missing_files(root, nodes, "web/docs/{}/zh.md", "Chinese help page")


def list_pictures(root: Path, nodes: dict[str, dict]) -> list[str]:
    return list_missing_files(root, nodes, "web/docs/{}.png", "picture of its minimal graph")


def list_templates_of_nodes(root: Path, nodes: dict[str, dict]) -> list[str]:
    graphs = (json.loads(file.read_text("utf-8")) for file in list_templates(root))
    used = {node["type"] for graph in graphs for node in graph["nodes"]}
    return [f"{name} stands in no template: example_workflows/*.json" for name in nodes if name not in used]


def list_templates(root: Path) -> list[Path]:
    return sorted((root / "example_workflows").glob("*.json"))


def list_thumbnails(root: Path) -> list[str]:
    return [f"template {file.stem} has no thumbnail: example_workflows/{file.stem}.jpg"
            for file in list_templates(root) if not file.with_suffix(".jpg").is_file()]


def list_twins(root: Path) -> list[str]:
    return [f"template {file.stem} has no graph in API form: example_workflows/api/{file.name}"
            for file in list_templates(root) if not (file.parent / "api" / file.name).is_file()]


def list_translations(root: Path, nodes: dict[str, dict]) -> list[str]:
    """Texts of nodes that a translation lacks."""
    source = flat(make_node_texts(nodes))
    lines = []
    for language in TRANSLATIONS:
        translation = flat(locale(language, root)["nodeDefs"])
        lines += [f"{language} lacks nodeDefs.{key}: {text}" for key, text in source.items()
                  if text and not translation.get(key)]
    return lines


OF_NODES = (list_english_pages, list_chinese_pages, list_pictures, list_templates_of_nodes, list_translations)
OF_TEMPLATES = (list_thumbnails, list_twins)


def list_everything(root: Path, nodes: dict[str, dict]) -> list[str]:
    """One line for each thing that is missing."""
    lines = [line for find in OF_NODES for line in find(root, nodes)]
    return lines + [line for find in OF_TEMPLATES for line in find(root)]
