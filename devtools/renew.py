"""Write again what follows from the nodes, and name what people have to write.

    python dev.py renew

Written are the snapshot of the nodes, their English texts, docs/nodes.md, the painter's tables, new inputs and outputs
in templates and blueprints, the bundled model's size and guidance there, the graphs in API form, figures of the bundled
files in texts, and thumbnails that are missing or outdated. A changed signature is written only when the newest section
of CHANGELOG.md names the node. Missing help pages, pictures, templates and translations are printed.
devtools.help_pictures draws the pictures of the help pages. At the end stand the files whose content changed.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from devtools import bundled, missing, node_list, painter_tables, saved_graphs, thumbnails
from devtools.browser import chromium, open_front_end
from devtools.host import load_pack
from devtools.node_info import ROOT, inputs, own, read_pack
from devtools.server import Server
from devtools.texts import SOURCE, TRANSLATIONS, locale, list_untranslated, main_texts, make_node_texts

SNAPSHOT = ROOT / "tests" / "snapshot.json"
LOCALES = ROOT / "locales"
GRAPHS = ROOT / "example_workflows"
WRITTEN = ("tests/snapshot.json", "locales/en/*.json", "docs/nodes.md", "web/painter/tables.js",
           "example_workflows/*.json", "example_workflows/api/*.json", "example_workflows/*.jpg",
           "subgraphs/*.json",  # the files that follow from the nodes
           *sorted({figure.file for figure in bundled.FIGURES}))  # and from the bundled files
TO_API = "async graph => { await app.loadGraphData(graph); return (await app.graphToPrompt()).output; }"


# The snapshot: what saved graphs and API callers rely on


def make_snapshot(info: dict[str, dict]) -> dict[str, dict]:
    """Ids, and the order, names and types of inputs and outputs."""
    return {name: make_signature(node) for name, node in own(info).items()}


def make_signature(node: dict) -> dict[str, list[str]]:
    return {"inputs": [f"{slot}: {kind}, {group}" for slot, kind, group, _ in inputs(node["input"])],
            "outputs": [f"{slot}: {kind}" for slot, kind in zip(node["output_name"], node["output"])]}


def differences(old: dict[str, dict], new: dict[str, dict]) -> dict[str, str]:
    """What changed in each node that is new, is gone, or has other inputs or outputs, by id."""
    return {name: f"was {old.get(name)}, is {new.get(name)}"
            for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}


def list_unmentioned(changed: Iterable[str], info: dict[str, dict], changelog: str) -> list[str]:
    """Titles of changed nodes that the changelog's newest section does not name; for a node that is gone, its id."""
    newest = " ".join(changelog.split("\n## ")[1].split())
    titles = [info[name]["display_name"] if name in info else name for name in changed]
    return [title for title in titles if title not in newest]


# Writing


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def write_api_graphs(url: str) -> None:
    """What the front end's *Export (API)* makes of each template."""
    with open_front_end(url) as page:
        for file in sorted(GRAPHS.glob("*.json")):
            nodes = page.evaluate(TO_API, json.loads(file.read_text("utf-8")))
            lines = [f' "{name}": ' + json.dumps({"class_type": node["class_type"], "inputs": node["inputs"]})
                     for name, node in nodes.items()]
            (GRAPHS / "api" / file.name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_what_follows(base: Path) -> list[str]:
    """Write the generated files; the titles of nodes that the changelog has to name first."""
    with Server(base, packs=[thumbnails.PROBES]) as server:  # they declare the nodes of other packs in templates
        info = server.object_info()
        changed = differences(json.loads(SNAPSHOT.read_text()), make_snapshot(info))
        if silent := list_unmentioned(changed, info, (ROOT / "CHANGELOG.md").read_text()):
            return silent
        write_json(SNAPSHOT, make_snapshot(info))
        saved_graphs.update_slots(own(info))
        bundled.update_graphs(own(info))
        painter_tables.main()
        write_json(LOCALES / SOURCE / "nodeDefs.json", make_node_texts(info))
        write_json(LOCALES / SOURCE / "main.json", locale(SOURCE).get("main", {}) | main_texts(info))
        if chromium():
            write_api_graphs(server.url)
    return []


def contents(root: Path) -> dict[Path, bytes]:
    """The generated files, by path."""
    return {path: path.read_bytes() for pattern in WRITTEN for path in sorted(root.glob(pattern))}


def changed_files(root: Path, before: dict[Path, bytes]) -> list[str]:
    """One line for each file that is new or has another content than `before`."""
    return [f"wrote {path.relative_to(root)}" for path, content in contents(root).items()
            if content != before.get(path)]


def main(arguments: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="dev.py renew", description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)
    before = contents(ROOT)
    with tempfile.TemporaryDirectory(prefix="mditface-renew-") as base:
        host = Path(base) / "host"
        host.mkdir()
        load_pack(host)
        if silent := write_what_follows(Path(base) / "renew"):
            print("Name these nodes in the newest section of CHANGELOG.md first:", *silent, sep="\n")
            return 1
        nodes = read_pack()
        node_list.PAGE.write_text(node_list.page(nodes), "utf-8")
        lines = thumbnails.renew(Path(base) / "thumbnails") + bundled.update_texts()
    lines += missing.list_everything(ROOT, nodes)
    lines += [line for language in TRANSLATIONS for line in list_untranslated(language)]
    lines += changed_files(ROOT, before) or ["no file changed"]
    print(*dict.fromkeys(lines), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
