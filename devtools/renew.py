"""Write again what follows from the nodes: their snapshot, their English texts and the graphs in API form.

    python dev.py renew

A changed signature is written only when the newest section of CHANGELOG.md names the node. Which texts the other
languages lack, or have too many, is printed; those are for a person to write. The pictures of the help pages are
devtools.help_pictures' business.
"""
from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from devtools import painter_tables
from devtools.browser import chromium, front_end
from devtools.server import ROOT, Server

SNAPSHOT = ROOT / "tests" / "snapshot.json"
LOCALES = ROOT / "locales"
GRAPHS = ROOT / "example_workflows"
SOURCE, *TRANSLATIONS = ("en", "zh")
TO_API = "async graph => { await app.loadGraphData(graph); return (await app.graphToPrompt()).output; }"


def own(info: dict[str, dict]) -> dict[str, dict]:
    """The pack's nodes out of /object_info, by id."""
    return {name: node for name, node in sorted(info.items()) if node["python_module"] == "custom_nodes.mditface"}


def inputs(groups: dict, prefix: str = "") -> Iterator[tuple[str, str, str, dict]]:
    """(name, type, required or optional, options) of each input, those of a dynamic combo's choices after it."""
    for group in ("required", "optional"):
        for name, (kind, *options) in groups.get(group, {}).items():
            options = options[0] if options else {}
            yield prefix + name, kind if isinstance(kind, str) else "COMBO", group, options
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for choice in options["options"]:
                    yield from inputs(choice["inputs"], f"{prefix}{name}.")


# The snapshot: what saved graphs and API callers rely on


def snapshot(info: dict[str, dict]) -> dict[str, dict]:
    """Ids, and the order, names and types of inputs and outputs."""
    return {name: {"inputs": [f"{slot}: {kind}, {group}" for slot, kind, group, _ in inputs(node["input"])],
                   "outputs": [f"{slot}: {kind}" for slot, kind in zip(node["output_name"], node["output"])]}
            for name, node in own(info).items()}


def differences(old: dict[str, dict], new: dict[str, dict]) -> dict[str, str]:
    """What became of each node that came, went or has other inputs or outputs, by id."""
    return {name: f"was {old.get(name)}, is {new.get(name)}"
            for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}


def unmentioned(changed: Iterable[str], info: dict[str, dict], changelog: str) -> list[str]:
    """Titles of changed nodes that do not stand in the changelog's newest section; a node that went has its id."""
    newest = " ".join(changelog.split("\n## ")[1].split())
    titles = [info[name]["display_name"] if name in info else name for name in changed]
    return [title for title in titles if title not in newest]


# Texts, by the keys under which the front end looks for them


def main_texts(info: dict[str, dict]) -> dict[str, dict]:
    """The part of main.json that follows from the nodes: their categories and the pack's own types."""
    nodes = own(info)
    categories = {part for node in nodes.values() for part in node["category"].split("/")}
    ours, foreign = ({kind for name in names for kind in info[name]["output"]}
                     for names in (nodes, info.keys() - nodes))
    return {"nodeCategories": {part: part for part in sorted(categories)},
            "dataTypes": {kind: kind for kind in sorted(ours - foreign)}}


def message(text: str) -> str:
    """A text for vue-i18n, through which the front end puts all texts but tooltips: signs that it reads are quoted."""
    return re.sub(r"[{}@|]", r"{'\g<0>'}", text)


def node_texts(info: dict[str, dict]) -> dict[str, dict]:
    """The file nodeDefs.json."""
    return {name: texts(node) for name, node in own(info).items()}


def texts(node: dict) -> dict:
    slots = {}
    for name, _, _, options in inputs(node["input"]):
        slots.setdefault(name.replace(".", "_"), {
            "name": message(options.get("display_name") or name.rpartition(".")[2]), "tooltip": options["tooltip"]})
    results = {str(index): {"name": message(name), "tooltip": tip}
               for index, (name, tip) in enumerate(zip(node["output_name"], node["output_tooltips"]))}
    return {"display_name": message(node["display_name"]), "description": message(node["description"]),
            "inputs": slots, "outputs": results}


def flat(tree: dict, prefix: str = "") -> dict[str, str]:
    """Each text by its path of keys."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def locale(language: str) -> dict[str, dict]:
    """A locale's files by their stems."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted((LOCALES / language).glob("*.json"))}


def untranslated(language: str) -> list[str]:
    """One line for each text that a language lacks or has too many."""
    source, translation = flat(locale(SOURCE)), flat(locale(language))
    return ([f"{language} lacks {key}: {source[key]}" for key in source if not translation.get(key)]
            + [f"{language} has {key}, which is no text" for key in translation.keys() - source.keys()])


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_api_graphs(url: str) -> None:
    """What the front end's *Export (API)* makes of each example graph."""
    with front_end(url) as page:
        for file in sorted(GRAPHS.glob("*.json")):
            nodes = page.evaluate(TO_API, json.loads(file.read_text("utf-8")))
            lines = [f' "{name}": ' + json.dumps({"class_type": node["class_type"], "inputs": node["inputs"]})
                     for name, node in nodes.items()]
            (GRAPHS / "api" / file.name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mditface-renew-") as base, Server(Path(base)) as server:
        info = server.object_info()
        changed = differences(json.loads(SNAPSHOT.read_text()), snapshot(info))
        if silent := unmentioned(changed, info, (ROOT / "CHANGELOG.md").read_text()):
            print("Name these nodes in the newest section of CHANGELOG.md first:", *silent, sep="\n")
            return 1
        write(SNAPSHOT, snapshot(info))
        painter_tables.main()
        write(LOCALES / SOURCE / "nodeDefs.json", node_texts(info))
        write(LOCALES / SOURCE / "main.json", locale(SOURCE).get("main", {}) | main_texts(info))
        if chromium():
            write_api_graphs(server.url)
    for language in TRANSLATIONS:
        for line in untranslated(language):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
